// The browser beside the native program: the same captions, tables and logits.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { apiPage, dist, open, pictures, root } from './browser.mjs';
import { writeGguf } from './gguf.mjs';
import { nmse, readSafetensors, writeSafetensors } from './safetensors.mjs';
import { serve } from './serve.mjs';

const program = process.env.QLLAMA ?? join(root, 'target/debug/qllama');
const names = ['noto-cat.png', 'noto-dog.png', 'noto-pizza.png', 'noto-rocket.png'];
const words = ['cat', 'dog', 'pizza', 'rocket', 'a red car'];
const folder = mkdtempSync(join(tmpdir(), 'qllama-native-'));
let server;
let browser;
let page;

before(async () => {
  writeGguf(join(folder, 'small model.gguf'));
  server = await serve({ '/': dist, '/pictures/': pictures, '/folder/': folder });
  browser = await open();
  page = await apiPage(browser, server);
  await page.evaluate(async () => {
    globalThis.model = await QLlama.load(MODEL);
  });
});

after(async () => {
  await browser?.close();
  server?.close();
  rmSync(folder, { recursive: true });
});

/** What the program prints: an object a line. */
function native(...args) {
  const out = execFileSync(program, [...args, '--json'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  return out.split('\n').filter(Boolean).map((line) => JSON.parse(line));
}

const paths = names.map((file) => join(pictures, file));

function alike(what, expected, found) {
  const error = nmse(expected, found);
  console.log(`${what}: normalised mean squared error ${error.toExponential(1)}`);
  assert.ok(error <= 1e-8, `${what}: ${error}`);
}

test('captions have the same ids, greedily and with beams', async () => {
  for (const numBeams of [1, 3]) {
    const expected = native('caption', ...paths, '--num-beams', `${numBeams}`, '--min-new-tokens', '6');
    for (const [i, file] of names.entries()) {
      const found = await page.evaluate(
        async ({ file, numBeams }) => (await collect(model.caption(await blob(file), { numBeams, minNewTokens: 6 }))).value,
        { file, numBeams },
      );
      assert.deepEqual([found.text, found.ids], [expected[i].text, expected[i].ids], file);
      assert.ok(found.ids.length >= 6);
    }
  }
});

test('all options go through: the same sequences, drawn and with beams, from caches of either type', async () => {
  const drawn = { doSample: true, temperature: 2.5, topK: 30, topP: 0.95, seed: 7, numReturnSequences: 3, maxNewTokens: 8, repetitionPenalty: 1.2 };
  const beams = { numBeams: 4, numReturnSequences: 2, lengthPenalty: 0.5, earlyStopping: 'never', minNewTokens: 3, noRepeatNgramSize: 2, eosTokenId: [2, 13], kvCache: 'f16' };
  for (const options of [drawn, beams]) {
    const flags = Object.entries(options).flatMap(([name, value]) => {
      const flag = `--${name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`;
      return value === true ? [flag] : [flag, String(value)];
    });
    const expected = native('generate', '--image', paths[0], '--prompt', 'English caption:', ...flags);
    const found = await page.evaluate(
      async ({ file, options }) => (await collect(model.generate({ image: await blob(file), prompt: 'English caption:', ...options }))).value.sequences,
      { file: names[0], options },
    );
    assert.deepEqual(found.map(({ text, ids }) => ({ text, ids })), expected.map(({ text, ids }) => ({ text, ids })));
    found.forEach(({ score }, i) => assert.ok(Math.abs(score - expected[i].score) < 1e-3, `${score}, and ${expected[i].score}`));
  }
});

test('match tables are the same', async () => {
  // The matching head compares each picture with each text.
  for (const [mode, files, texts] of [['c', 4, 5], ['g', 3, 5], ['itm', 2, 2]].map(([mode, i, t]) => [mode, names.slice(0, i), words.slice(0, t)])) {
    const expected = native('match', '--mode', mode, '--image', ...files.map((file) => join(pictures, file)), '--text', ...texts);
    const found = await page.evaluate(
      async ({ files, texts, mode }) => model.match(await Promise.all(files.map(blob)), texts, { mode }),
      { files, texts, mode },
    );
    alike(`match by ${mode}`, expected.flatMap((row) => row.probabilities), found.flat());
  }
});

test('vision rows and logits are the same, and so are those of a second call on a cache', async () => {
  const at = (name) => join(folder, name);
  native('embed', '--image', ...paths, '--mode', 'c', '--outputs', at('vision.safetensors'));
  const { vision_hidden_states: vision } = readSafetensors(at('vision.safetensors'));
  const width = vision.data.length / names.length;
  for (const [i, file] of names.entries()) {
    const found = await page.evaluate(async (file) => {
      const { data, shape } = await model.visionHiddenStates(await blob(file));
      return { data: Array.from(data), shape };
    }, file);
    assert.deepEqual(found.shape, [1, ...vision.shape.slice(1)]);
    alike(`${file}: vision rows`, vision.data.slice(i * width, (i + 1) * width), found.data);
  }
  const ids = (rows, first) => ({ dtype: 'I64', shape: [names.length, rows], data: Array.from({ length: names.length * rows }, (_, i) => 3 + ((i * 37 + first) % 700)) });
  const first = { input_ids: ids(20, 0), vision_hidden_states: vision };
  writeSafetensors(at('first.safetensors'), first);
  native('forward', '--zero-query-mask', '--return', 'logits,cache', '--inputs', at('first.safetensors'), '--outputs', at('first-out.safetensors'));
  const { logits, ...cache } = readSafetensors(at('first-out.safetensors'));
  const second = { input_ids: ids(3, 5) };
  writeSafetensors(at('second.safetensors'), { ...second, ...cache });
  native('forward', '--inputs', at('second.safetensors'), '--outputs', at('second-out.safetensors'));
  const later = readSafetensors(at('second-out.safetensors')).logits;
  const found = await page.evaluate(
    async ({ ids, vision, more }) => {
      const tensor = ({ data, shape }) => ({ data: Float32Array.from(data), shape });
      const first = await model.forward({ inputIds: ids, visionHiddenStates: tensor(vision), useZeroAttentionMask: true, useCache: true });
      const cache = await first.pastKeyValues.toArrays();
      const second = await model.forward({ inputIds: more, pastKeyValues: first.pastKeyValues, useCache: true });
      const plain = await model.forward({ inputIds: more });
      const layers = await second.pastKeyValues.toArrays();
      const given = await model.forward({ inputIds: more, pastKeyValues: cache });
      const wrong = await fails(model.forward({ inputIds: more, pastKeyValues: cache.slice(1) }));
      const bad = await fails(model.forward({ inputIds: more, pastKeyValues: [{ key: 1 }] }));
      const { key, value } = cache.at(-1);
      return {
        first: Array.from(first.logits.data), second: Array.from(second.logits.data), shape: second.logits.shape, layers: layers.length,
        given: Array.from(given.logits.data), key: Array.from(key.data), grown: layers[0].key.shape, value: { shape: value.shape, data: Array.from(value.data) }, none: plain.pastKeyValues, wrong, bad,
      };
    },
    { ids: first.input_ids, vision, more: second.input_ids },
  );
  alike('logits', logits.data, found.first);
  assert.deepEqual(found.shape, later.shape);
  alike('logits on top of a cache', later.data, found.second);
  alike('logits on top of arrays', later.data, found.given);
  const layers = Object.keys(cache).length / 2;
  const value = cache[`past_value.${layers - 1}`];
  assert.deepEqual(found.value.shape, value.shape);
  alike('cached values', value.data, found.value.data);
  alike('cached keys', cache[`past_key.${layers - 1}`].data, found.key);
  assert.deepEqual(found.grown, [value.shape[0], value.shape[1], 23, value.shape[3]]);
  assert.equal(found.layers, layers);
  assert.equal(found.none, undefined);
  assert.match(found.wrong, /^E_INPUT_SHAPE: past_key_values/);
  assert.match(found.bad, /^E_INPUT: pastKeyValues/);
});

test('a GGUF file: the same ids, over the network, from storage, and without either whole', async () => {
  const [expected] = native('generate', '--model', join(folder, 'small model.gguf'), '--prompt', 'ab b', '--max-new-tokens', '20');
  assert.equal(expected.ids.length, 20);
  for (const [cache, fromStorage] of [['opfs', false], ['opfs', true], ['none', false]]) {
    server.sent.splice(0);
    const found = await page.evaluate(async (cache) => {
      const phases = new Set();
      const model = await QLlama.load('folder/small model.gguf', { cache, onProgress: (p) => phases.add(p.phase) });
      const { pieces, value } = await collect(model.generate({ prompt: 'ab b', maxNewTokens: 20 }));
      const picture = await fails(model.captionText(await blob('noto-cat.png')));
      const { info } = model;
      await model.dispose();
      return { text: pieces.join(''), ids: value.ids, picture, info, phases: [...phases] };
    }, cache);
    assert.deepEqual([found.text, found.ids], [expected.text, expected.ids], cache);
    assert.deepEqual([found.info.fromStorage, found.info.networkBytes === 0, found.info.vision], [fromStorage, fromStorage, false]);
    assert.match(found.picture, /^E_STATE: .*InternViT/);
    assert.ok(found.phases.includes('upload'));
    if (fromStorage) assert.deepEqual(server.sent.filter((r) => r.path.includes('gguf') && r.method === 'GET'), []);
  }
  const found = await page.evaluate(async () => [
    await fails(QLlama.load('folder/none.gguf')),
    await fails(QLlama.load('folder/small model.gguf', { memoryBudget: 1000 })),
  ]);
  const bytes = readFileSync(join(folder, 'small model.gguf'));
  writeFileSync(join(folder, 'cut.gguf'), bytes.subarray(0, bytes.length - 100));
  writeFileSync(join(folder, 'page.gguf'), '<!doctype html><p>Log in</p>');
  for (const [name, code] of [['cut', /^E_(TRUNCATED|TENSOR_RANGE): cut.gguf/], ['page', /^E_IO: page.gguf: .*web page/]]) {
    assert.match(await page.evaluate((name) => fails(QLlama.load(`folder/${name}.gguf`)), name), code);
  }
  assert.match(found[0], /^E_IO: none.gguf/);
  assert.match(found[1], /^E_LIMIT: the memory budget is /);
});
