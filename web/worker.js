// The worker that owns a model. It takes one call after the other; an abort reaches the call that runs between steps.

import init, { load } from './wasm/qllama.js';
import { Files, fault } from './files.js';
import { Notes } from './notes.js';
import { square } from './pictures.js';

/** The engine's code, and the instance of it that has the model. */
let module = null;
let wasm = null;
let model = null;
let files = null;
/** What the browser tells of the engine's adapter. */
let adapter = '';
/** Whether the engine goes on by itself where its device is lost. */
let recover = true;
let tail = Promise.resolve();
/** Calls that are not answered yet, by id. */
const controllers = new Map();

// Held as long as this worker lives: the page waits for it and so learns of its end.
self.navigator.locks?.request(self.name, () => {
  self.postMessage({ alive: true });
  return new Promise(() => {});
});

// The engine asks for an adapter and a device. The adapter's name is noted. Where the engine does not go on by itself, the
// loss of the device is told at once: what is waited for may be a download, which would not notice.
if (self.GPUAdapter) {
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = async function (...args) {
    const { vendor, architecture, device: product, description } = this.info ?? {};
    adapter = description || [vendor, architecture, product].filter(Boolean).join(' ');
    const device = await requestDevice.apply(this, args);
    device.lost.then(({ reason, message }) => {
      if (!recover && reason !== 'destroyed') self.postMessage({ lost: `the GPU device was lost: ${message.replace(/\.$/, '')}; load the model again` });
    });
    return device;
  };
}

// A trap ends the engine. What it says went to `qllamaPanic` before.
const stopped = (reason) => self.postMessage({ fatal: `the engine stopped: ${reason}` });
function uncaught(event) {
  const error = event.error ?? event.reason;
  if (!self.qllamaPanic && !(error instanceof WebAssembly.RuntimeError)) return;
  event.preventDefault();
  stopped(self.qllamaPanic ?? error.message);
}
self.addEventListener('error', uncaught);
self.addEventListener('unhandledrejection', uncaught);

self.onmessage = ({ data }) => {
  if (data.abort !== undefined) {
    controllers.get(data.abort)?.abort();
    return;
  }
  const { id, method, args } = data;
  const controller = new AbortController();
  controllers.set(id, controller);
  tail = tail.then(async () => {
    try {
      if (controller.signal.aborted) throw fault('E_ABORTED', { reason: 'cancelled' });
      const value = await methods[method](args, {
        signal: controller.signal,
        send: (message) => self.postMessage({ id, ...message }),
        goOn: () => !controller.signal.aborted,
      });
      self.postMessage({ id, value, info: info() });
    } catch (error) {
      if (self.qllamaPanic) stopped(self.qllamaPanic);
      else self.postMessage({ id, error: plain(error), info: info() });
    } finally {
      controllers.delete(id);
    }
  });
};

function plain(error) {
  if (error?.name === 'AbortError') return { code: 'E_ABORTED', message: 'cancelled' };
  return { code: error?.code ?? 'E_INTERNAL', message: error?.message ?? String(error) };
}

function info() {
  if (!model) return null;
  const { check, ...rest } = model.info();
  return {
    ...rest,
    check: { ...check, text: check.text && `${check.text}\n${[adapter, navigator.userAgent].filter(Boolean).join('; ')}` },
    ...(adapter && { adapter }),
    wasmBytes: wasm.memory.buffer.byteLength,
    networkBytes: files.networkBytes,
    storageNote: files.storageNote,
  };
}

/** A picture as the engine takes it. */
const picture = (image) => square(module, model.sides(), image);

async function write({ image, prompt, inputIds, options }, caption, context) {
  const started = performance.now();
  let first = null;
  let last = null;
  let count = 0;
  const onPiece = (text, sequence, id) => {
    // The others come with the result.
    if (sequence > 0) return context.goOn();
    // Text without an id is the rest behind the last token; neither is a step of beam search.
    if (id !== undefined || text === '') {
      last = performance.now();
      first ??= last;
      count += 1;
    }
    if (text !== '') context.send({ piece: text });
    return context.goOn();
  };
  const start = { image: image && (await picture(image)), prompt, inputIds };
  const all = await model.generate(start, options, caption, onPiece);
  if (!context.goOn()) throw fault('E_ABORTED', { reason: 'cancelled' });
  const seconds = (last - first) / 1000;
  return {
    ...all[0],
    sequences: all.map(({ text, ids, score }) => ({ text, ids, score })),
    firstTokenSeconds: ((first ?? performance.now()) - started) / 1000,
    tokensPerSecond: count > 1 && seconds > 0 ? (count - 1) / seconds : null,
  };
}

/** Errors of loading that say nothing about the files. */
const OF_THE_PLACE = ['E_ABORTED', 'E_HTTP', 'E_ADAPTER', 'E_LIMIT', 'E_OOM', 'E_DEVICE_LOST', 'E_GPU'];

const methods = {
  async load({ code, url, cache, options }, { signal, send }) {
    module = code ?? (await WebAssembly.compile(await (await fetch(new URL('./wasm/qllama_bg.wasm', import.meta.url))).arrayBuffer()));
    const started = performance.now();
    let shown = 0;
    let phase = 'start';
    let phaseStarted = started;
    let phaseBytes = 0;
    const progress = (next, bytes, total) => {
      const now = performance.now();
      if (next !== phase) {
        phase = next;
        phaseStarted = now;
        phaseBytes = bytes;
      } else if (now - shown < 100 && bytes < total) return;
      shown = now;
      const rate = (bytes - phaseBytes) / (now - phaseStarted);
      const secondsLeft = rate > 0 && total > bytes ? (total - bytes) / rate / 1000 : null;
      send({ progress: { phase, bytes, total, secondsLeft } });
    };
    recover = options.recover;
    progress('start', 0, 0);
    let downloading = false;
    files = new Files(url, {
      cache,
      signal,
      onDownload(bytes, total) {
        downloading = bytes < total;
        progress('download', bytes, total);
      },
    });
    [wasm] = await Promise.all([init({ module_or_path: module }), files.open()]);
    const name = new URL(url).pathname.split('/').filter(Boolean).pop() ?? new URL(url).host;
    const notes = new Notes(() => adapter, cache !== 'none');
    const source = { ...notes, size: (file) => files.size(file), read: (file, offset, length) => files.read(file, Number(offset), length) };
    const onLoaded = (bytes, total) => downloading || progress('upload', bytes, total);
    let loaded;
    try {
      loaded = await load(name, source, files.single, onLoaded, options, (recovered) =>
        self.postMessage({ recovered: { ...recovered, ...(adapter && { adapter }) } }),
      );
    } catch (error) {
      if (!OF_THE_PLACE.includes(error?.code)) await files.doubt().catch(() => {});
      throw error;
    }
    await files.finish();
    if (signal.aborted) {
      loaded.free();
      throw fault('E_ABORTED', { reason: 'cancelled' });
    }
    model = loaded;
    const fromStorage = await files.fromStorage();
    // For the next visit; nobody waits for it.
    if (fromStorage) files.revalidate().catch(() => {});
    send({ progress: { phase: 'ready', bytes: 1, total: 1, secondsLeft: 0 } });
    return { fromStorage, seconds: (performance.now() - started) / 1000 };
  },

  caption: (args, context) => write(args, true, context),

  generate: (args, context) => write(args, false, context),

  async match({ images, texts, mode }, { goOn }) {
    const pictures = [];
    for (const image of images) pictures.push(await picture(image));
    return model.matchTexts(pictures, texts, mode, goOn);
  },

  embedImage: async ({ image, mode }) => model.embedImage(await picture(image), mode),

  embedText: ({ text }) => model.embedText(text),

  forward: ({ inputs }) => model.forward(inputs),

  pastToArrays: ({ past }) => model.pastToArrays(past),

  freePast: ({ id }) => model.freePast(id),

  visionHiddenStates: async ({ image }) => model.visionHiddenStates(await picture(image)),

  attention: async ({ image, layer }) => model.attentionMap(await picture(image), layer),
};
