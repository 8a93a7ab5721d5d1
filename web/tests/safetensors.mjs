// Reads and writes safetensors files: `{ name: { dtype, shape, data } }`, F32 and I64 only.

import { readFileSync, writeFileSync } from 'node:fs';

export function readSafetensors(path) {
  const bytes = readFileSync(path);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length));
  const out = {};
  for (const [name, { dtype, shape, data_offsets: [start, end] = [] }] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const part = bytes.subarray(8 + length + start, 8 + length + end);
    const data = [];
    for (let at = 0; at < part.length; at += dtype === 'I64' ? 8 : 4) {
      if (dtype === 'I64') data.push(Number(part.readBigInt64LE(at)));
      else if (dtype === 'F32') data.push(part.readFloatLE(at));
      else break;
    }
    out[name] = { dtype, shape, data };
  }
  return out;
}

export function writeSafetensors(path, tensors) {
  const header = {};
  const parts = [];
  let at = 0;
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    const array = dtype === 'I64' ? BigInt64Array.from(data, BigInt) : Float32Array.from(data);
    header[name] = { dtype, shape, data_offsets: [at, at + array.byteLength] };
    parts.push(Buffer.from(array.buffer));
    at += array.byteLength;
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, ...parts]));
}

/** Normalised mean squared error. */
export function nmse(expected, found) {
  if (expected.length !== found.length) return Infinity;
  let error = 0;
  let power = 0;
  expected.forEach((e, i) => {
    error += (e - found[i]) ** 2;
    power += e ** 2;
  });
  return error / power;
}
