// Writes a small GGUF file of the LLaMA family: weights at random, the same each time; a SentencePiece tokenizer.

import { writeFileSync } from 'node:fs';

const [U32, F32, TEXT, LIST, I32] = [4, 6, 8, 9, 5];

/** Little-endian bytes of numbers. */
function le(type, ...numbers) {
  const bytes = Buffer.alloc({ u32: 4, i32: 4, f32: 4, u64: 8 }[type] * numbers.length);
  numbers.forEach((n, i) => {
    if (type === 'u32') bytes.writeUInt32LE(n, 4 * i);
    else if (type === 'i32') bytes.writeInt32LE(n, 4 * i);
    else if (type === 'f32') bytes.writeFloatLE(n, 4 * i);
    else bytes.writeBigUInt64LE(BigInt(n), 8 * i);
  });
  return bytes;
}

function text(string) {
  const bytes = Buffer.from(string);
  return Buffer.concat([le('u64', bytes.length), bytes]);
}

/** The binary16 of a number of the normal range; the fraction is cut. */
function half(x) {
  const bits = le('f32', x).readUInt32LE();
  const exponent = ((bits >>> 23) & 255) - 112;
  if (exponent <= 0) return 0;
  return ((bits >>> 16) & 0x8000) | (exponent << 10) | ((bits >>> 13) & 1023);
}

/** Q4_1: 32 elements in a scale, a least value and 16 bytes. */
function q4(values) {
  const out = [];
  for (let at = 0; at < values.length; at += 32) {
    const block = values.slice(at, at + 32);
    const least = Math.min(...block);
    const scale = (Math.max(...block) - least) / 15;
    const code = (i) => Math.max(0, Math.min(15, Math.round((block[i] - least) / scale)));
    const bytes = Buffer.alloc(20);
    bytes.writeUInt16LE(half(scale), 0);
    bytes.writeUInt16LE(half(least), 2);
    for (let i = 0; i < 16; i++) bytes[4 + i] = code(i) | (code(i + 16) << 4);
    out.push(bytes);
  }
  return Buffer.concat(out);
}

export function writeGguf(path) {
  const [hidden, inner, heads, keyHeads, layers, vocab] = [128, 256, 4, 2, 2, 64];
  let state = 7;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
  const pieces = ['<unk>', '<s>', '</s>', '▁', 'a', 'b', 'ab', '▁ab', '▁b'];
  while (pieces.length < vocab) pieces.push(`▁word${pieces.length}`);
  const list = (type, items) => Buffer.concat([le('u32', LIST, type), le('u64', items.length), ...items]);
  const field = (type, bytes) => Buffer.concat([le('u32', type), bytes]);
  const fields = {
    'general.architecture': field(TEXT, text('llama')),
    'llama.embedding_length': field(U32, le('u32', hidden)),
    'llama.feed_forward_length': field(U32, le('u32', inner)),
    'llama.block_count': field(U32, le('u32', layers)),
    'llama.attention.head_count': field(U32, le('u32', heads)),
    'llama.attention.head_count_kv': field(U32, le('u32', keyHeads)),
    'llama.context_length': field(U32, le('u32', 128)),
    'llama.attention.layer_norm_rms_epsilon': field(F32, le('f32', 1e-5)),
    'tokenizer.ggml.model': field(TEXT, text('llama')),
    'tokenizer.ggml.tokens': list(TEXT, pieces.map(text)),
    'tokenizer.ggml.scores': list(F32, pieces.map((_, i) => le('f32', -i))),
    'tokenizer.ggml.token_type': list(I32, pieces.map((_, i) => le('i32', [2, 3, 3][i] ?? 1))),
    'tokenizer.ggml.bos_token_id': field(U32, le('u32', 1)),
    'tokenizer.ggml.eos_token_id': field(U32, le('u32', 2)),
  };
  const shapes = { 'token_embd.weight': [vocab, hidden], 'output_norm.weight': [hidden], 'output.weight': [vocab, hidden] };
  for (let i = 0; i < layers; i++) {
    const width = (hidden / heads) * keyHeads;
    for (const [name, shape] of Object.entries({
      attn_norm: [hidden], attn_q: [hidden, hidden], attn_k: [width, hidden], attn_v: [width, hidden], attn_output: [hidden, hidden],
      ffn_norm: [hidden], ffn_gate: [inner, hidden], ffn_up: [inner, hidden], ffn_down: [hidden, inner],
    })) shapes[`blk.${i}.${name}.weight`] = shape;
  }
  const pad = (bytes) => Buffer.concat([bytes, Buffer.alloc((32 - (bytes.length % 32)) % 32)]);
  const infos = [];
  const data = [];
  let offset = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    const norm = shape.length === 1;
    const values = Array.from({ length: shape.reduce((a, b) => a * b) }, () => (norm ? 1 + 0.1 * random() : 0.4 * random()));
    const bytes = pad(norm ? le('f32', ...values) : q4(values));
    infos.push(Buffer.concat([text(name), le('u32', shape.length), le('u64', ...[...shape].reverse()), le('u32', norm ? 0 : 3), le('u64', offset)]));
    data.push(bytes);
    offset += bytes.length;
  }
  const head = [Buffer.from('GGUF'), le('u32', 3), le('u64', infos.length, Object.keys(fields).length)];
  for (const [key, value] of Object.entries(fields)) head.push(text(key), value);
  writeFileSync(path, Buffer.concat([pad(Buffer.concat([...head, ...infos])), ...data]));
}
