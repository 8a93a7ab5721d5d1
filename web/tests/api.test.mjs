// The API, beside what the published modules computed, and with arguments that are wrong.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { apiTests } from './api.mjs';
import { dist, root, tasksDuring } from './browser.mjs';
import { nmse, readSafetensors } from './safetensors.mjs';

const expected = JSON.parse(readFileSync(join(root, 'models/emoji-tiny-w4/expected.json'), 'utf8'));
const api = apiTests({ withModel: true });
const { run } = api;

test('captions have the ids of the published modules', async () => {
  const some = expected.pictures.filter((_, i) => i % 20 === 0);
  for (const { file, greedy_ids: ids, caption } of some) {
    const found = await run(async (file) => {
      const { pieces, value } = await collect(model.caption(await blob(file), { maxNewTokens: 20 }));
      return { text: pieces.join(''), ids: value.ids, whole: value.text };
    }, file);
    assert.deepEqual(found, { text: caption, ids, whole: caption }, file);
  }
});

test('beam search, too', async () => {
  for (const { file, caption_beam5: caption } of expected.pictures.slice(0, 4)) {
    const text = await run(async (file) => model.captionText(await blob(file), { numBeams: 5, maxNewTokens: 20 }), file);
    assert.equal(text, caption, file);
  }
});

test('match tables are those of the published modules', async () => {
  const { files, texts, probabilities } = expected.match;
  for (const mode of ['c', 'g']) {
    const table = await run(
      async ({ files, texts, mode }) => model.match(await Promise.all(files.map(blob)), texts, { mode }),
      { files: files.slice(0, 4), texts, mode },
    );
    table.forEach((row, i) => {
      assert.ok(Math.abs(row.reduce((a, b) => a + b) - 1) < 1e-5);
      row.forEach((p, j) => assert.ok(Math.abs(p - probabilities[mode.toUpperCase()][i][j]) < 1e-3, `${mode} ${files[i]} ${texts[j]}: ${p}`));
    });
  }
  const itm = await run(async () => model.match([catBlob], ['cat', 'dog'], { mode: 'itm' }));
  assert.ok(itm[0].every((p) => p >= 0 && p <= 1));
});

test('embeddings and attention maps have their shapes', async () => {
  const found = await run(async () => {
    const image = await model.embedImage(catBlob, { mode: 'g' });
    const text = await model.embedText('a cat');
    const map = await model.attention(catBlob, { layer: 0 });
    return { image: image.length, text: text.length, map: [map.width, map.height, map.layers, map.layer, map.perToken.length], sum: map.values.reduce((a, b) => a + b) };
  });
  assert.deepEqual([found.image, found.text], [96, 96]);
  assert.deepEqual(found.map, [8, 8, 3, 0, 16]);
  assert.ok(found.sum > 0 && found.sum <= 1.00001, `attention sums to ${found.sum}`);
});

test('forward has the logits of the published modules', async () => {
  for (const folder of ['qllama-base', 'qllama-ragged', 'qllama-w4-g64-asym']) {
    const e = readSafetensors(join(root, 'tests/data/fixtures', folder, 'expected.safetensors'));
    const of = (key) => e[key] && { data: e[key].data, shape: e[key].shape };
    const logits = await run(
      async ({ folder, inputs }) => {
        const model = await QLlama.load(`fixtures/${folder}/`, { cache: 'none' });
        const { logits } = await model.forward(inputs);
        await model.dispose();
        return { shape: logits.shape, data: Array.from(logits.data) };
      },
      {
        folder,
        inputs: {
          queryEmbeds: of('query_embeds'),
          inputIds: of('input_ids'),
          attentionMask: of('attention_mask'),
          visionHiddenStates: of('vision_hidden_states'),
          useZeroAttentionMask: true,
        },
      },
    );
    const want = e['prefill.logits'];
    assert.deepEqual(logits.shape, want.shape);
    const error = nmse(want.data, logits.data);
    console.log(`${folder}: logits' normalised mean squared error ${error.toExponential(1)}`);
    assert.ok(error <= 1e-8, `${folder}: ${error}`);
  }
});

test('the TypeScript declarations have every option that the engine takes, and no other', async () => {
  const { default: init, optionNames } = await import(join(dist, 'wasm/qllama.js'));
  await init({ module_or_path: readFileSync(join(dist, 'wasm/qllama_bg.wasm')) });
  const declared = /interface GenerationOptions \{\n(.*?)\n\}/s.exec(readFileSync(join(dist, 'qllama.d.ts'), 'utf8'))[1];
  const names = [...declared.matchAll(/^  (\w+)\?:/gm)].map(([, name]) => name).filter((name) => name !== 'prompt' && name !== 'signal');
  assert.ok(names.includes('numBeams'));
  assert.deepEqual(names.sort(), optionNames().sort());
});

test('several sequences: the stream tells the first, the result has all', async () => {
  const found = await run(async () => {
    const beams = await collect(model.caption(catBlob, { numBeams: 3, numReturnSequences: 3 }));
    const drawn = await collect(model.caption(catBlob, { doSample: true, seed: 3, temperature: 3, numReturnSequences: 4, maxNewTokens: 6 }));
    const one = await collect(model.caption(catBlob));
    return { beams, drawn, one };
  });
  for (const [name, count] of [['beams', 3], ['drawn', 4], ['one', 1]]) {
    const { pieces, value } = found[name];
    assert.equal(value.sequences.length, count, name);
    const { text, ids, score } = value;
    assert.deepEqual(value.sequences[0], { text, ids, score }, name);
    assert.equal(pieces.join(''), text, name);
    assert.ok(value.firstTokenSeconds > 0, name);
  }
  const scores = found.beams.value.sequences.map(({ score }) => score);
  assert.deepEqual(scores, [...scores].sort((a, b) => b - a));
  assert.ok(scores[0] > scores[2]);
  assert.ok(new Set(found.drawn.value.sequences.map(({ ids }) => ids.join())).size > 1);
});

test('an end id of the caller ends a text', async () => {
  const { ids, endless, first, second } = await run(async () => {
    const endless = (await collect(model.caption(catBlob, { eosTokenId: [], maxNewTokens: 6 }))).value;
    const { ids } = endless;
    // A text whose first token ends it has no pieces.
    const first = (await collect(model.caption(catBlob, { eosTokenId: ids[0] }))).value;
    const second = (await collect(model.caption(catBlob, { maxNewTokens: 6, eosTokenId: [5, ids[1]] }))).value;
    return { ids, endless, first, second };
  });
  assert.deepEqual([first.ids, first.text, first.tokens, first.tokensPerSecond], [[], '', 1, null]);
  assert.ok(first.firstTokenSeconds > 0);
  assert.deepEqual([second.ids, second.tokens], [[ids[0]], 2]);
  assert.deepEqual([ids.length, endless.tokens], [6, 6]);
});

test('a cache in f16, for a call and for all', async () => {
  const found = await run(async () => {
    const small = await QLlama.load(MODEL, { kvCache: 'f16' });
    const peak = async (model, options) => {
      const { text } = (await collect(model.caption(catBlob, { maxNewTokens: 60, ...options }))).value;
      return { text, peak: model.info.gpuBytesPeak };
    };
    const out = { all: await peak(small, {}), f32: await peak(small, { kvCache: 'f32' }) };
    await small.dispose();
    const other = await QLlama.load(MODEL);
    out.call = await peak(other, { kvCache: 'f16' });
    await other.dispose();
    return out;
  });
  assert.deepEqual([found.all.text, found.f32.text, found.call.text], ['cat', 'cat', 'cat']);
  assert.equal(found.all.peak, found.call.peak);
  assert.ok(found.f32.peak > found.all.peak, `${found.f32.peak} bytes, and ${found.all.peak} with f16`);
});

const handles = () => run(async () => {
  globalThis.ids = (...data) => ({ data, shape: [1, data.length] });
  globalThis.tokens = Array.from({ length: 12 }, (_, i) => 3 + ((i * 37) % 700));
  globalThis.begun = () => model.forward({ inputIds: ids(...tokens.slice(0, 8)), useCache: true });
});

test('two chunks by a handle are one pass, and nothing of the cache leaves the GPU', async () => {
  await handles();
  const found = await run(async () => {
    const whole = await model.forward({ inputIds: ids(...tokens), useCache: true });
    const first = await begun();
    const second = await model.forward({ inputIds: ids(...tokens.slice(8)), pastKeyValues: first.pastKeyValues, useCache: true });
    const arrays = await second.pastKeyValues.toArrays();
    const plain = await model.forward({ inputIds: ids(5), pastKeyValues: arrays });
    const by = await model.forward({ inputIds: ids(5), pastKeyValues: second.pastKeyValues });
    const all = await whole.pastKeyValues.toArrays();
    const flat = (layers) => layers.flatMap(({ key, value }) => [...key.data, ...value.data]);
    const out = {
      whole: Array.from(whole.logits.data), parts: [...first.logits.data, ...second.logits.data],
      lengths: [first.pastKeyValues.length, second.pastKeyValues.length], shape: arrays[0].key.shape, layers: arrays.length,
      all: flat(all), arrays: flat(arrays), plain: Array.from(plain.logits.data), by: Array.from(by.logits.data),
      names: Object.keys(second).sort(), isHandle: second.pastKeyValues instanceof PastKeyValues, none: by.pastKeyValues,
    };
    for (const { pastKeyValues } of [whole, second]) pastKeyValues.dispose();
    return out;
  });
  for (const [what, a, b] of [['logits', found.whole, found.parts], ['the cache', found.all, found.arrays], ['on top of it', found.plain, found.by]]) {
    assert.equal(a.length, b.length, what);
    const error = nmse(a, b);
    console.log(`${what}: normalised mean squared error ${error.toExponential(1)}`);
    assert.ok(error <= 1e-9, `${what}: ${error}`);
  }
  assert.deepEqual(found.lengths, [8, 12]);
  assert.deepEqual([found.shape[2], found.isHandle, found.none], [12, true, undefined]);
  assert.equal(found.layers, await run(() => model.info.layers));
  assert.deepEqual(found.names, ['logits', 'pastKeyValues']);
});

test('a handle that is used up, disposed of, busy, or of another model', async () => {
  await handles();
  const found = await run(async () => {
    const next = (pastKeyValues, more = {}) => model.forward({ inputIds: ids(7), pastKeyValues, useCache: true, ...more });
    const { pastKeyValues: past } = await begun();
    const expected = await model.forward({ inputIds: ids(7), pastKeyValues: past });
    // Without useCache, and after a call that failed, it is as it was.
    const failed = await fails(next(past, { inputIds: ids(99999) }));
    const again = await model.forward({ inputIds: ids(7), pastKeyValues: past });
    const stop = new AbortController();
    const aborted = fails(model.forward({ inputIds: ids(9, 9, 9), pastKeyValues: past, useCache: true }, { signal: stop.signal }));
    const busy = await fails(next(past));
    const busyArrays = await fails(past.toArrays());
    stop.abort();
    await aborted;
    const rows = (await past.toArrays())[0].key.shape[2];
    const { logits, pastKeyValues: later } = await next(past);
    const other = await QLlama.load(MODEL);
    const foreign = await fails(other.forward({ inputIds: ids(7), pastKeyValues: later }));
    const { pastKeyValues: theirs } = await other.forward({ inputIds: ids(7), useCache: true });
    await other.dispose();
    theirs.dispose();
    const out = {
      failed, busy, busyArrays, aborted: await aborted, rows, usedUp: await fails(next(past)), usedUpArrays: await fails(past.toArrays()), foreign,
      length: later.length, gone: await fails(theirs.toArrays()), made: await fails(async () => new PastKeyValues()),
      same: [again, { logits }].map(({ logits }) => logits.data.every((x, i) => x === expected.logits.data[i])),
    };
    // A handle that was used up holds nothing: the one after it stays.
    past.dispose();
    out.kept = (await later.toArrays())[0].key.shape[2];
    later.dispose();
    later.dispose();
    out.disposed = await fails(next(later));
    return out;
  });
  assert.match(found.failed, /^E_TOKEN/);
  assert.match(found.aborted, /^AbortError/);
  for (const key of ['busy', 'busyArrays', 'usedUp', 'usedUpArrays', 'foreign', 'gone', 'disposed']) assert.match(found[key], /^E_STATE: /, key);
  assert.match(found.foreign, /another model/);
  assert.match(found.made, /^TypeError/);
  assert.deepEqual([found.rows, found.length, found.kept], [8, 9, 9]);
  assert.deepEqual(found.same, [true, true]);
});

test('caches are freed: by dispose, after aborted calls, and with handles that nobody holds', async () => {
  await handles();
  const session = await api.page.context().newCDPSession(api.page);
  const settled = () => run(async () => {
    await model.embedText('x');
    return model.info.gpuBytes;
  });
  await run(async () => (await begun()).pastKeyValues.dispose());
  const before = await settled();
  const held = await run(async () => {
    globalThis.kept = (await begun()).pastKeyValues;
    return model.info.gpuBytes;
  });
  assert.ok(held > before, `${held} bytes with a cache, ${before} without`);
  await run(() => kept.dispose());
  assert.equal(await settled(), before, 'dispose');
  await run(async () => {
    const stop = new AbortController();
    const call = fails(model.forward({ inputIds: ids(...tokens), useCache: true }, { signal: stop.signal }));
    setTimeout(() => stop.abort(), 5);
    await call;
    // Disposed of while it is extended by a call that then fails.
    const { pastKeyValues } = await begun();
    const failing = fails(model.forward({ inputIds: ids(99999), pastKeyValues, useCache: true }));
    pastKeyValues.dispose();
    await failing;
  });
  assert.equal(await settled(), before, 'calls that failed');
  await run(async () => {
    await begun();
    const { pastKeyValues } = await begun();
    await model.forward({ inputIds: ids(7), pastKeyValues, useCache: true });
  });
  for (let i = 0; i < 50 && (await settled()) !== before; i++) await session.send('HeapProfiler.collectGarbage');
  assert.equal(await settled(), before, 'handles that nobody holds');
});

test('pictures of every kind give the same caption', async () => {
  const found = await run(async () => {
    const bitmap = await createImageBitmap(catBlob);
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = bitmap.width;
    const context = canvas.getContext('2d');
    context.fillStyle = '#fff';
    context.fillRect(0, 0, 999, 999);
    context.drawImage(bitmap, 0, 0);
    const image = new Image();
    image.src = URL.createObjectURL(catBlob);
    const out = [];
    for (const picture of [catBlob, bitmap, canvas, context.getImageData(0, 0, 64, 64), image]) out.push(await model.captionText(picture));
    // The caller's own bitmap is still whole.
    out.push(bitmap.width);
    return out;
  });
  assert.deepEqual(found, ['cat', 'cat', 'cat', 'cat', 'cat', 64]);
});

test('a second call waits for its turn', async () => {
  assert.deepEqual(await run(() => Promise.all([model.captionText(catBlob), model.captionText(catBlob), model.embedText('x').then((e) => e.length)])), ['cat', 'cat', 96]);
});

test('aborts reject with AbortError and leave the model usable', async () => {
  const found = await run(async () => {
    const out = [];
    // Before, at once, while it waits, in the middle, twice, after.
    out.push(await fails(model.captionText(catBlob, { signal: AbortSignal.abort() })));
    const now = new AbortController();
    const first = model.captionText(catBlob);
    const call = model.captionText(catBlob, { signal: now.signal });
    now.abort();
    now.abort();
    out.push(await fails(call), await first);
    const middle = new AbortController();
    const start = performance.now();
    out.push(
      await fails(async () => {
        for await (const _ of model.caption(catBlob, { minNewTokens: 100, maxNewTokens: 100, signal: middle.signal })) middle.abort();
      }),
    );
    const later = new AbortController();
    out.push(await model.captionText(catBlob, { signal: later.signal }));
    later.abort();
    // Between two pictures of a match, and while other calls run.
    for (const call of [
      (signal) => model.match([catBlob, catBlob, catBlob], ['cat', 'dog'], { signal }),
      (signal) => model.embedImage(catBlob, { signal }),
      (signal) => model.attention(catBlob, { signal }),
      (signal) => model.forward({ inputIds: { data: [1], shape: [1, 1] } }, { signal }),
      (signal) => model.captionText(catBlob, { numBeams: 4, minNewTokens: 100, maxNewTokens: 100, signal }),
    ]) {
      const stop = new AbortController();
      const running = fails(call(stop.signal));
      setTimeout(() => stop.abort(), 30);
      out.push(await running);
    }
    // Leaving a loop ends the call.
    for await (const _ of model.caption(catBlob, { minNewTokens: 100, maxNewTokens: 100 })) break;
    out.push(await model.captionText(catBlob));
    return { out, seconds: (performance.now() - start) / 1000 };
  });
  assert.deepEqual(found.out.map((s) => s.replace(/:.*/, '')), ['AbortError', 'AbortError', 'cat', 'AbortError', 'cat', ...Array(5).fill('AbortError'), 'cat']);
});

test('wrong arguments are told, and the next call works', async () => {
  const found = await run(async () => {
    const detached = new Float32Array(64);
    structuredClone(detached, { transfer: [detached.buffer] });
    const pixels = new ImageData(2, 2);
    structuredClone(pixels.data, { transfer: [pixels.data.buffer] });
    const ids = new Int32Array(2);
    structuredClone(ids, { transfer: [ids.buffer] });
    return {
      undefined: await fails(model.captionText()),
      object: await fails(model.captionText({})),
      empty: await fails(model.captionText(new Blob([]))),
      junk: await fails(model.captionText(new Blob(['no picture']))),
      cut: await fails(model.captionText(catBlob.slice(0, 400))),
      nan: await fails(model.captionText(catBlob, { maxNewTokens: NaN })),
      fraction: await fails(model.captionText(catBlob, { maxNewTokens: 1.5 })),
      negative: await fails(model.captionText(catBlob, { maxNewTokens: -1 })),
      zero: await fails(model.captionText(catBlob, { maxNewTokens: 0 })),
      long: await fails(model.captionText(catBlob, { maxNewTokens: 1e6 })),
      beams: await fails(model.captionText(catBlob, { numBeams: 99 })),
      texts: await fails(model.match([catBlob], [])),
      noText: await fails(model.match([catBlob], [undefined])),
      mode: await fails(model.embedImage(catBlob, { mode: 'x' })),
      layer: await fails(model.attention(catBlob, { layer: 99 })),
      ids: await fails(model.forward({ inputIds: { data: [1, NaN], shape: [1, 2] } })),
      vocab: await fails(model.forward({ inputIds: { data: [1, 99999], shape: [1, 2] } })),
      minus: await fails(model.forward({ inputIds: { data: [-1], shape: [1, 1] } })),
      shape: await fails(model.forward({ inputIds: { data: [1, 2], shape: [1, 3] } })),
      none: await fails(model.forward({})),
      nanEmbeds: await fails(model.forward({ inputsEmbeds: { data: new Float32Array(192).fill(NaN), shape: [1, 1, 192] } })),
      detached: await fails(model.forward({ inputsEmbeds: { data: detached, shape: [1, 1, 64] } })),
      detachedPixels: await fails(model.captionText(pixels)),
      detachedIds: await fails(model.forward({ inputIds: { data: ids, shape: [1, 2] } })),
      nanPosition: await fails(model.forward({ inputIds: { data: [1], shape: [1, 1] }, positionIds: { data: [NaN], shape: [1, 1] } })),
      nanShape: await fails(model.forward({ inputIds: { data: [1], shape: [1, NaN] } })),
      nanLayer: await fails(model.attention(catBlob, { layer: NaN })),
      nanTemperature: await fails(model.captionText(catBlob, { doSample: true, temperature: NaN })),
      nanBudget: await fails(QLlama.load(MODEL, { memoryBudget: NaN })),
      undefinedTexts: await fails(model.match(undefined, undefined)),
      undefinedText: await fails(model.embedText(undefined)),
      undefinedInputs: await fails(model.forward(undefined)),
      past: await fails(model.forward({ inputIds: { data: [1], shape: [1, 1] }, pastKeyValues: 1 })),
      getter: await fails(model.captionText(catBlob, { get numBeams() { throw new RangeError('mine'); } })),
      both: await fails(async () => model.generate({ prompt: 'a', inputIds: [1] }).next()),
      prompt: await fails(async () => model.generate({}).next()),
      unknown: await fails(model.captionText(catBlob, { numBeam: 2 })),
      greedy: await fails(model.captionText(catBlob, { temperature: 0.5 })),
      notFlag: await fails(model.captionText(catBlob, { doSample: 1 })),
      notNumber: await fails(model.captionText(catBlob, { maxNewTokens: '5' })),
      notIds: await fails(model.captionText(catBlob, { eosTokenId: ['2'] })),
      notWord: await fails(model.captionText(catBlob, { earlyStopping: 'soon' })),
      notCache: await fails(model.captionText(catBlob, { kvCache: 'f8' })),
      notSent: await fails(model.captionText(catBlob, { seed: () => 1 })),
      sequences: await fails(model.captionText(catBlob, { numBeams: 2, numReturnSequences: 3 })),
      endId: await fails(model.captionText(catBlob, { eosTokenId: 99999 })),
      loadCache: await fails(QLlama.load(MODEL, { kvCache: 'f8' })),
      url: await fails(QLlama.load(undefined)),
      scheme: await fails(QLlama.load('file:///etc/passwd')),
      cache: await fails(QLlama.load(MODEL, { cache: 'disk' })),
      surrogate: await model.embedText('\ud800').then((e) => e.length),
      next: await model.captionText(catBlob),
    };
  });
  const code = (key) => String(found[key]).replace(/:.*/s, '');
  for (const key of ['undefined', 'object', 'nan', 'fraction', 'negative', 'zero', 'beams', 'texts', 'noText', 'mode', 'layer', 'ids', 'none', 'detached', 'detachedPixels', 'detachedIds', 'nanPosition', 'nanShape', 'nanLayer', 'nanTemperature', 'nanBudget', 'undefinedTexts', 'undefinedText', 'undefinedInputs', 'past', 'both', 'prompt', 'unknown', 'greedy', 'notFlag', 'notNumber', 'notIds', 'notWord', 'notCache', 'notSent', 'sequences', 'loadCache', 'url', 'scheme', 'cache']) {
    assert.equal(code(key), 'E_INPUT', `${key}: ${found[key]}`);
  }
  for (const key of ['empty', 'junk', 'cut']) assert.equal(code(key), 'E_IMAGE', `${key}: ${found[key]}`);
  for (const key of ['vocab', 'minus', 'endId']) assert.equal(code(key), 'E_TOKEN', `${key}: ${found[key]}`);
  assert.equal(code('long'), 'E_CONTEXT', found.long);
  assert.equal(code('shape'), 'E_INPUT_SHAPE', found.shape);
  assert.equal(code('nanEmbeds'), 'E_NONFINITE', found.nanEmbeds);
  // By JavaScript's names.
  assert.match(found.fraction, /maxNewTokens/);
  assert.match(found.greedy, /temperature belongs to sampling: set doSample/);
  assert.match(found.sequences, /numReturnSequences must be from 1 to 2/);
  assert.equal(found.getter, 'RangeError: mine');
  assert.equal(found.surrogate, 96);
  assert.equal(found.next, 'cat');
});

test('memory stays level over captions', async () => {
  const found = await run(async () => {
    await model.captionText(catBlob);
    const before = model.info;
    for (let i = 0; i < 10; i++) await model.captionText(catBlob);
    return { before, after: model.info };
  });
  assert.equal(found.after.gpuBytes, found.before.gpuBytes);
  assert.equal(found.after.wasmBytes, found.before.wasmBytes);
  console.log(`WebAssembly memory ${found.after.wasmBytes} bytes`);
});

test('the page is never blocked for more than 50 ms', async () => {
  const tasks = await tasksDuring(api.page, async () => {
    const other = await QLlama.load(MODEL);
    for (let i = 0; i < 3; i++) await other.captionText(catBlob);
    await other.embedImage(catBlob);
    await other.match([catBlob], ['cat', 'dog']);
    await other.attention(catBlob);
    await other.dispose();
  });
  assert.ok(tasks.length > 50, `only ${tasks.length} tasks`);
  const longest = Math.max(...tasks);
  console.log(`longest of ${tasks.length} tasks of the page's thread: ${longest.toFixed(1)} ms`);
  assert.ok(longest <= 50, `${longest} ms`);
});

test('dispose, and calls after it', async () => {
  const found = await run(async () => {
    const other = await QLlama.load(MODEL);
    const pending = fails(other.captionText(catBlob));
    await other.dispose();
    await other.dispose();
    return [await pending, await fails(other.captionText(catBlob)), await fails(other.embedText('x'))];
  });
  for (const message of found) assert.match(message, /^E_STATE: the model was disposed of/);
});
