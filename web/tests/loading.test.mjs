// Loading models, and what a browser, a server, a disk and a GPU can do to it.

import assert from 'node:assert/strict';
import { createReadStream, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { apiTests } from './api.mjs';
import { apiPage, dist } from './browser.mjs';
import { serve } from './serve.mjs';

const api = apiTests();
const { run, during, clear } = api;

test('loading goes by range where it must, and from storage the next time', async () => {
  await clear();
  const first = await run(async () => {
    const phases = new Set();
    const model = await QLlama.load(MODEL, { onProgress: (p) => phases.add(p.phase) });
    const info = model.info;
    await model.dispose();
    return { phases: [...phases], info };
  });
  assert.ok(first.phases.includes('download') && first.phases.includes('ready'), String(first.phases));
  assert.equal(first.info.fromStorage, false);
  api.server.sent.splice(0);
  const second = await run(async () => {
    const model = await QLlama.load(MODEL);
    const info = model.info;
    await model.dispose();
    return info;
  });
  assert.deepEqual([second.fromStorage, second.networkBytes], [true, 0]);
  assert.deepEqual(api.server.sent.filter((r) => r.method === 'GET' && r.path.startsWith('/models/')), []);
  api.server.sent.splice(0);
  const none = await run(async () => {
    const model = await QLlama.load(MODEL, { cache: 'none' });
    const text = await model.captionText(catBlob);
    await model.dispose();
    return text;
  });
  assert.equal(none, 'cat');
  assert.ok(api.server.sent.some((r) => r.path.endsWith('model.safetensors') && r.range));
});

/** Answers for the weights only. */
const weights = (answer) => (name, request, response, file) => {
  if (name !== 'model.safetensors' || request.method === 'HEAD') return false;
  return answer(request, response, file) ?? true;
};

const load = async () => {
  const found = await fails(async () => {
    const model = await QLlama.load(MODEL);
    const text = await model.captionText(catBlob);
    await model.dispose();
    throw { code: text, message: '' };
  });
  return found;
};

for (const [what, answer, code] of [
  ['403', (_, r) => r.writeHead(403).end(), /^E_HTTP: .*403/],
  ['404', (_, r) => r.writeHead(404).end(), /^E_IO: model.safetensors: neither/],
  ['500', (_, r) => r.writeHead(500).end(), /^E_HTTP: .*500/],
  ['a web page', (_, r) => r.writeHead(200, { 'content-type': 'text/html' }).end('<!doctype html><p>Log in</p>'), /^E_HTTP: .*web page/],
  ['a web page that says it is binary', (_, r) => r.writeHead(200, { 'content-type': 'application/octet-stream' }).end('<!doctype html><p>Log in</p>'), /^E_(IO|HEADER): .*web page/],
  ['nothing', (_, r) => r.writeHead(200, { 'content-length': 0 }).end(), /^E_(HEADER|TRUNCATED)/],
  ['no answer', (_, r) => r.destroy(), /^E_HTTP/],
  [
    'half of it, and a cut connection',
    (_, r, file) => {
      r.writeHead(200, { 'content-length': file.size, etag: '"x"' });
      createReadStream(file.path, { end: file.size / 2 }).on('end', () => r.destroy()).pipe(r, { end: false });
    },
    /^E_HTTP: .*cut/,
  ],
  [
    'a file that is too short',
    (_, r, file) => {
      r.writeHead(200, { 'content-length': file.size - 1000 });
      createReadStream(file.path, { end: file.size - 1001 }).pipe(r);
    },
    /^E_(TENSOR_RANGE|TRUNCATED): model.safetensors/,
  ],
  [
    'a file that is too long',
    (_, r, file) => {
      r.writeHead(200, { 'content-length': file.size + 8 });
      createReadStream(file.path).on('end', () => r.end('too long')).pipe(r, { end: false });
    },
    /^E_(TENSOR_RANGE|HEADER): model.safetensors/,
  ],
  [
    'a file of another digest than it says',
    (_, r, file) => {
      r.writeHead(200, { 'content-length': file.size, 'repr-digest': `sha-256=:${Buffer.alloc(32).toString('base64')}:` });
      createReadStream(file.path).pipe(r);
    },
    /^E_INTEGRITY/,
  ],
]) {
  test(`the server sends ${what} in place of the weights`, async () => {
    await clear();
    assert.match(await during(weights(answer), load), code);
    assert.equal(await run(load), 'cat: ', 'the next try works');
  });
}

test('a folder that is not there', async () => {
  assert.match(await run(() => fails(QLlama.load('nowhere/'))), /^E_IO: config.json/);
});

test('a server without ranges, and one that does not tell lengths', async () => {
  await clear();
  const plain = weights((_, r, file) => {
    r.writeHead(200);
    createReadStream(file.path).pipe(r);
  });
  assert.equal(await during(plain, load), 'cat: ');
  const none = weights((_, r, file) => {
    r.writeHead(200, { 'content-length': file.size });
    createReadStream(file.path).pipe(r);
  });
  assert.equal(
    await during(none, async () => {
      const model = await QLlama.load(MODEL, { cache: 'none' });
      const text = await model.captionText(catBlob);
      await model.dispose();
      return text;
    }),
    'cat',
  );
});

test('an interrupted download goes on where it stopped', async () => {
  await clear();
  let etag;
  const cut = weights((request, r, file) => {
    etag = '"same"';
    r.writeHead(200, { 'content-length': file.size, etag });
    createReadStream(file.path, { end: 6 << 20 }).on('end', () => setTimeout(() => r.destroy(), 300)).pipe(r, { end: false });
  });
  assert.match(await during(cut, load), /^E_HTTP: .*cut/);
  let from = null;
  const rest = weights((request, r, file) => {
    from = request.headers.range;
    const start = Number(/bytes=(\d+)-/.exec(from)[1]);
    r.writeHead(206, { 'content-length': file.size - start, 'content-range': `bytes ${start}-${file.size - 1}/${file.size}`, etag });
    createReadStream(file.path, { start }).pipe(r);
  });
  assert.equal(await during(rest, load), 'cat: ');
  assert.equal(from, `bytes=${4 << 20}-`);
});

test('a flipped byte in storage is found, and the file is fetched anew', async () => {
  await clear();
  await run(load);
  await run(async () => {
    const all = await (await navigator.storage.getDirectory()).getDirectoryHandle('qllama');
    for await (const folder of all.values()) {
      const handle = await folder.getFileHandle('model.safetensors').catch(() => null);
      if (!handle) continue;
      const file = await handle.getFile();
      if (file.size === 0) continue;
      const at = file.size - 1000;
      const byte = new Uint8Array(await file.slice(at, at + 1).arrayBuffer());
      const writer = await handle.createWritable({ keepExistingData: true });
      await writer.write({ type: 'write', position: at, data: new Uint8Array([byte[0] ^ 1]) });
      await writer.close();
    }
  });
  assert.match(await run(load), /^E_INTEGRITY: model.safetensors/);
  assert.equal(await run(load), 'cat: ');
});

test('where storage is refused, loading goes on without it', async () => {
  await clear();
  const found = await run(async () => {
    const restore = before(`
      const real = FileSystemSyncAccessHandle.prototype.write;
      let left = 5 << 20;
      FileSystemSyncAccessHandle.prototype.write = function (bytes, options) {
        left -= bytes.length;
        if (left < 0) throw new DOMException('full', 'QuotaExceededError');
        return real.call(this, bytes, options);
      };`);
    try {
      const model = await QLlama.load(MODEL);
      const text = await model.captionText(catBlob);
      const note = model.info.storageNote;
      await model.dispose();
      return { text, note };
    } finally {
      restore();
    }
  });
  assert.equal(found.text, 'cat');
  assert.match(found.note, /full/);
});

test('aborts while loading, at every stage', async () => {
  await clear();
  const found = await run(async () => {
    const out = [await fails(QLlama.load(MODEL, { signal: AbortSignal.abort() }))];
    for (const phase of ['start', 'download', 'upload']) {
      const stop = new AbortController();
      out.push(await fails(QLlama.load(MODEL, { signal: stop.signal, onProgress: (p) => p.phase === phase && stop.abort() })));
      if (phase === 'download') await (await QLlama.load(MODEL)).dispose();
    }
    return out;
  });
  for (const message of found) assert.match(message, /^AbortError/);
  assert.equal(await run(load), 'cat: ');
});

test('too little memory allowed is told before weights are fetched', async () => {
  assert.match(await run(() => fails(QLlama.load(MODEL, { memoryBudget: 1e6 }))), /^E_LIMIT: the memory budget is /);
});

test('within a small memory budget, weights are read again for every picture', async () => {
  const captions = await run(async () => {
    const refused = await fails(QLlama.load(MODEL, { memoryBudget: 1e6 }));
    const memoryBudget = Number(/but (\d+) are needed at least/.exec(refused)[1]);
    const stop = new AbortController();
    const model = await QLlama.load(MODEL, { memoryBudget, signal: stop.signal });
    stop.abort();
    const captions = [];
    for (const picture of ['noto-cat.png', 'noto-cat.png']) captions.push(await model.captionText(await blob(picture)));
    await model.dispose();
    return captions;
  });
  assert.deepEqual(captions, ['cat', 'cat']);
});

test('no WebGPU, no adapter, limits too small', async () => {
  const found = await run(async () => {
    const { prototype } = Navigator;
    const real = Object.getOwnPropertyDescriptor(prototype, 'gpu');
    const out = [];
    for (const [gpu, inWorker] of [
      [undefined, ''],
      [{ requestAdapter: async () => null }, 'GPU.prototype.requestAdapter = async () => null;'],
      [
        { requestAdapter: async () => ({ limits: { maxStorageBuffersPerShaderStage: 4 } }) },
        "Object.defineProperty(GPUSupportedLimits.prototype, 'maxStorageBuffersPerShaderStage', { get: () => 4 });",
      ],
    ]) {
      Object.defineProperty(prototype, 'gpu', { configurable: true, get: () => gpu });
      const restore = before(inWorker);
      out.push({ supported: await QLlama.supported(), load: await fails(QLlama.load(MODEL)) });
      restore();
    }
    Object.defineProperty(prototype, 'gpu', real);
    return out;
  });
  assert.deepEqual(found.map(({ supported }) => supported.ok), [false, false, false]);
  assert.match(found[0].load, /^E_ADAPTER: this browser has no WebGPU/);
  assert.match(found[1].load, /^E_ADAPTER: this browser offers no WebGPU adapter/);
  assert.match(found[2].load, /^E_LIMIT: the adapter allows 4 for maxStorageBuffersPerShaderStage/);
  assert.match(found[2].supported.reason, /4 storage buffers/);
});

test('loading asks for an adapter once, in page and worker together', async () => {
  const found = await run(async () => {
    const count = (where) => `
      const real = GPU.prototype.requestAdapter;
      GPU.prototype.requestAdapter = function (...args) {
        new BroadcastChannel('adapters').postMessage('${where}');
        return real.apply(this, args);
      };`;
    const asked = [];
    const channel = new BroadcastChannel('adapters');
    channel.onmessage = ({ data }) => asked.push(data);
    const { requestAdapter } = GPU.prototype;
    (0, eval)(`{ ${count('page')} }`);
    const restore = before(count('worker'));
    try {
      const model = await QLlama.load(MODEL);
      await model.captionText(catBlob);
      const { adapter } = model.info;
      await model.dispose();
      const during = [...asked];
      await QLlama.supported();
      await new Promise((resolve) => setTimeout(resolve, 100));
      return { during, after: asked, adapter };
    } finally {
      restore();
      channel.close();
      GPU.prototype.requestAdapter = requestAdapter;
    }
  });
  assert.deepEqual(found.during, ['worker']);
  // What counts sees the page's requests, too.
  assert.deepEqual(found.after, ['worker', 'page']);
  assert.notEqual(found.adapter, '');
});

test('a worker that is terminated rejects what is pending, and the model loads again', async () => {
  const found = await run(async () => {
    const Real = Worker;
    let worker;
    globalThis.Worker = class extends Real {
      constructor(...args) {
        super(...args);
        worker = this;
      }
    };
    const other = await QLlama.load(MODEL);
    globalThis.Worker = Real;
    await other.captionText(catBlob);
    const pending = fails(other.captionText(catBlob, { minNewTokens: 100, maxNewTokens: 100 }));
    const start = performance.now();
    worker.terminate();
    const message = await pending;
    return { message, milliseconds: performance.now() - start, after: await fails(other.captionText(catBlob)) };
  });
  assert.match(found.message, /^E_DEVICE_LOST/);
  assert.match(found.after, /^E_DEVICE_LOST/);
  assert.ok(found.milliseconds < 1000, `${found.milliseconds} ms`);
  assert.equal(await run(load), 'cat: ');
});

/** Kills the GPU process; `globalThis.pending` must then reject within a second. */
async function killTheGpu() {
  const session = await api.browser.context.browser()?.newBrowserCDPSession().catch(() => null) ?? await api.browser.context.newCDPSession(api.page);
  const start = performance.now();
  await session.send('Browser.crashGpuProcess').catch(() => {});
  const message = await run(() => Promise.race([pending, new Promise((resolve) => setTimeout(resolve, 5000, 'nothing in 5 s'))]));
  const milliseconds = performance.now() - start;
  assert.match(message, /^E_DEVICE_LOST/);
  console.log(`from the end of the GPU process to the rejection: ${milliseconds.toFixed(0)} ms`);
  assert.ok(milliseconds < 1000, `${milliseconds} ms`);
}

test('without recovery, a GPU process that dies rejects what is pending, and the model loads again', async () => {
  await run(async () => {
    globalThis.other = await QLlama.load(MODEL, { recover: false });
    await other.captionText(catBlob);
    globalThis.pending = fails(other.captionText(catBlob, { minNewTokens: 200, maxNewTokens: 200 }));
  });
  await api.page.waitForTimeout(300);
  await killTheGpu();
  assert.equal(await run(load), 'cat: ');
});

test('without recovery, a GPU process that dies rejects a load that waits for the network', async () => {
  let asked;
  const waiting = new Promise((resolve) => (asked = resolve));
  api.fault = (name) => {
    if (name !== 'model.safetensors') return false;
    asked();
    return true;
  };
  try {
    await run(() => {
      globalThis.pending = fails(QLlama.load(MODEL, { cache: 'none', recover: false }));
    });
    await waiting;
    await killTheGpu();
  } finally {
    api.fault = null;
  }
  assert.equal(await run(load), 'cat: ');
});

/** A checkpoint of 310 MB whose weights are all zero: sparse on disk. */
function writeLarge() {
  const [hidden, inner, layers, vocab] = [1024, 2816, 7, 32000];
  const config = { model_type: 'llama', architectures: ['LlamaForCausalLM'], hidden_act: 'silu', hidden_size: hidden, intermediate_size: inner, num_hidden_layers: layers, num_attention_heads: 16, num_key_value_heads: 16, vocab_size: vocab, max_position_embeddings: 512, rms_norm_eps: 1e-6, torch_dtype: 'bfloat16' };
  const shapes = { 'model.embed_tokens.weight': [vocab, hidden], 'model.norm.weight': [hidden], 'lm_head.weight': [vocab, hidden] };
  for (let i = 0; i < layers; i++) {
    const layer = `model.layers.${i}`;
    for (const x of 'qkvo') shapes[`${layer}.self_attn.${x}_proj.weight`] = [hidden, hidden];
    for (const x of ['gate', 'up']) shapes[`${layer}.mlp.${x}_proj.weight`] = [inner, hidden];
    shapes[`${layer}.mlp.down_proj.weight`] = [hidden, inner];
    for (const x of ['input', 'post_attention']) shapes[`${layer}.${x}_layernorm.weight`] = [hidden];
  }
  const header = {};
  let at = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    const bytes = 2 * shape.reduce((a, b) => a * b);
    header[name] = { dtype: 'BF16', shape, data_offsets: [at, at + bytes] };
    at += bytes;
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(join(api.large, 'config.json'), JSON.stringify(config));
  writeFileSync(join(api.large, 'model.safetensors'), Buffer.concat([length, text]));
  truncateSync(join(api.large, 'model.safetensors'), 8 + text.length + at);
  return at;
}

test('a checkpoint of 310 MB passes through little WebAssembly memory', async () => {
  const total = writeLarge();
  assert.ok(total > 300e6);
  for (const cache of ['opfs', 'none']) {
    const found = await run(async (cache) => {
      const small = await QLlama.load('fixtures/qllama-base/', { cache: 'none' });
      const start = small.info.wasmBytes;
      await small.dispose();
      const model = await QLlama.load('large/', { cache });
      const { logits } = await model.forward({ inputIds: { data: [1, 2], shape: [1, 2] } });
      const { wasmBytes, gpuBytes, loadSeconds } = model.info;
      await model.dispose();
      return { grown: wasmBytes - start, gpuBytes, loadSeconds, shape: logits.shape };
    }, cache);
    console.log(`310 MB, cache ${cache}: ${found.loadSeconds.toFixed(1)} s, WebAssembly memory grew by ${(found.grown / 2 ** 20).toFixed(1)} MiB`);
    assert.ok(found.grown <= 64 << 20);
    assert.ok(found.gpuBytes >= total);
    assert.deepEqual(found.shape, [1, 2, 32000]);
  }
});

test('pages that load a model together fetch it once', async () => {
  await clear();
  const pages = [await apiPage(api.browser, api.server), await apiPage(api.browser, api.server)];
  api.server.sent.splice(0);
  // The weights come slowly, so that the pages meet.
  api.fault = weights((_, response, { path, size }) => {
    response.writeHead(200, { 'content-length': size, etag: '"slow"' });
    createReadStream(path, { highWaterMark: size >> 3 })
      .on('data', function (part) {
        response.write(part);
        this.pause();
        setTimeout(() => this.resume(), 150);
      })
      .on('end', () => response.end());
  });
  const found = await Promise.all(
    pages.map((page) =>
      page.evaluate(async () => {
        const seen = [];
        const model = await QLlama.load(MODEL, { onProgress: ({ phase, bytes }) => phase === 'download' && seen.push(bytes) });
        const { networkBytes, storageNote } = model.info;
        const text = await model.captionText(catBlob);
        await model.dispose();
        return { text, networkBytes, storageNote, most: Math.max(0, ...seen) };
      }),
    ),
  );
  api.fault = null;
  for (const page of pages) await page.close();
  assert.deepEqual(found.map(({ text }) => text), ['cat', 'cat']);
  assert.deepEqual(found.map(({ storageNote }) => storageNote), [null, null]);
  const fetched = api.server.sent.filter(({ path, method }) => method === 'GET' && path.startsWith('/models/')).map(({ path }) => path);
  assert.deepEqual(fetched, [...new Set(fetched)], 'a file was fetched twice');
  for (const { most } of found) assert.ok(most > 1e6, `progress was told up to ${most} bytes`);
  await clear();
});

test('the engine of another site, and in workers of any kind', async () => {
  const far = await serve({ '/': dist }, 0, (_, __, response) => {
    if (allow) response.setHeader('access-control-allow-origin', '*');
    return false;
  });
  let allow = true;
  const page = await apiPage(api.browser, api.server);
  const found = await page.evaluate(async (far) => {
    const { QLlama } = await import(`${far}qllama.js`);
    const model = await QLlama.load(MODEL);
    const text = await model.captionText(catBlob);
    await model.dispose();
    return text;
  }, far.url);
  assert.equal(found, 'cat');
  // Where the site stops to allow it, the worker cannot import its script.
  allow = false;
  const refused = await page.evaluate(async (far) => {
    const { QLlama } = await import(`${far}qllama.js`);
    return fails(QLlama.load(MODEL));
  }, far.url);
  assert.match(refused, /^E_INTERNAL: .*another site.*CORS.*worker-src blob:/);
  far.close();
  // In a worker without an address, a relative one needs to be told of what.
  const inWorker = await page.evaluate(async () => {
    const script = `
      import { QLlama } from '${location.origin}/qllama.js';
      onmessage = async ({ data: { url, options } }) => {
        try {
          const model = await QLlama.load(url, options);
          postMessage(model.info.name);
          await model.dispose();
        } catch (error) {
          postMessage(error.code + ': ' + error.message);
        }
      };`;
    const worker = new Worker(URL.createObjectURL(new Blob([script], { type: 'text/javascript' })), { type: 'module' });
    const asked = (url, options) =>
      new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = ({ message }) => reject(new Error(message));
        worker.postMessage({ url, options });
      });
    return [await asked('/models/emoji-tiny/'), await asked('/models/emoji-tiny/', { baseUrl: location.href }), await asked(new URL(MODEL, location.href).href)];
  });
  assert.match(inWorker[0], /^E_INPUT: .*baseUrl/);
  assert.deepEqual(inWorker.slice(1), ['emoji-tiny', 'emoji-tiny']);
  await page.close();
});
