// Numbers that are none: each call that would give them is rejected with E_NONFINITE.

import assert from 'node:assert/strict';
import { copyFileSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { apiTests } from './api.mjs';
import { root } from './browser.mjs';

const api = apiTests();

/** The demo model with NaN in what pictures and texts begin with, which are BF16. */
function poison(folder) {
  const from = join(root, 'models/emoji-tiny-w4');
  for (const file of readdirSync(from)) copyFileSync(join(from, file), join(folder, file));
  const bytes = readFileSync(join(from, 'model.safetensors'));
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length));
  for (const name of ['vision_model.embeddings.class_embedding', 'qllama.model.embed_tokens.weight']) {
    const [begin, end] = header[name].data_offsets.map((offset) => 8 + length + offset);
    for (let at = begin; at < end; at += 2) bytes.writeUInt16LE(0x7fc0, at);
  }
  writeFileSync(join(folder, 'model.safetensors'), bytes);
}

test('nothing that is no number comes out of a model', async () => {
  poison(api.large);
  const found = await api.run(async () => {
    const model = await QLlama.load('large/');
    const ids = { inputIds: { data: [1, 304], shape: [1, 2] } };
    const found = {
      caption: await fails(model.captionText(catBlob)),
      beams: await fails(model.captionText(catBlob, { numBeams: 3 })),
      generate: await fails(collect(model.generate({ prompt: 'a' }))),
      c: await fails(model.match([catBlob], ['a', 'b'])),
      g: await fails(model.match([catBlob], ['a', 'b'], { mode: 'g' })),
      itm: await fails(model.match([catBlob], ['a', 'b'], { mode: 'itm' })),
      image: await fails(model.embedImage(catBlob)),
      text: await fails(model.embedText('a')),
      attention: await fails(model.attention(catBlob)),
      rows: await fails(model.visionHiddenStates(catBlob)),
      logits: await fails(model.forward(ids)),
      states: await fails(model.forward({ ...ids, outputLogits: false, outputHiddenStates: true })),
      cache: await fails(async () => (await model.forward({ ...ids, outputLogits: false, useCache: true })).pastKeyValues.toArrays()),
    };
    await model.dispose();
    return found;
  });
  for (const [what, code] of Object.entries(found)) assert.match(code, /^E_NONFINITE: /, what);
});
