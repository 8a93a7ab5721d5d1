// QLlama in Node, Deno and Bun: the same API. The model runs in a thread. Models and pictures may lie on disk; models that
// come over the network are kept in the user's cache folder.

import { existsSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { basename, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { QLlamaError, wrong } from './errors.js';
import { cacheFolder } from './folder.js';
import { findGpu } from './gpu.js';
import { place } from './place.js';

export { PastKeyValues, QLlama, QLlamaError } from './qllama.js';

const isAddress = (text) => /^[a-z][a-z0-9+.-]+:/i.test(text);

/** The path that a string or URL names. */
function path(what, given) {
  const text = String(given);
  if (!isAddress(text)) return resolve(text);
  if (!/^file:/i.test(text)) throw wrong(`${what}: expected a path or a file: address`);
  try {
    return fileURLToPath(text);
  } catch (error) {
    throw wrong(`${what}: ${error.message}`);
  }
}

Object.assign(place, {
  caches: ['disk', 'none'],

  // The Hugging Face hub, where it is another than usual.
  hub: process.env.HF_ENDPOINT || undefined,

  noAdapter: 'there is WebGPU, but no GPU adapter: is a Vulkan, Metal or Direct3D 12 driver installed?',

  async missing() {
    try {
      await findGpu();
      return null;
    } catch (error) {
      return error.message;
    }
  },

  gpu: async () => (await findGpu()).gpu,

  // Threads read it from disk.
  engine: async () => null,

  foreign: () => false,

  address(given, base) {
    const url = base === undefined ? given : new URL(given, base);
    if (/^https?:/i.test(url)) return new URL(url).href;
    const local = path('url', url);
    if (!existsSync(local)) throw new QLlamaError('E_IO', `${basename(local)}: not found`);
    return pathToFileURL(local).href;
  },

  worker(name) {
    const thread = new Worker(new URL('./thread.js', import.meta.url), { name });
    const worker = {
      postMessage: (message, transfer) => thread.postMessage(message, transfer),
      terminate: () => thread.terminate(),
      // A program may end while a model is loaded, but not while it waits for one.
      busy: (busy) => (busy ? thread.ref() : thread.unref()),
    };
    thread.on('message', (data) => worker.onmessage({ data }));
    thread.on('messageerror', () => worker.onmessageerror());
    thread.on('error', (error) => worker.onerror({ message: error.message, preventDefault() {} }));
    thread.on('exit', () => worker.onmessage({ data: { lost: 'the thread ended; load the model again' } }));
    thread.unref();
    return worker;
  },

  // Threads tell of their end by themselves.
  watch() {},

  clear: () => rm(cacheFolder(), { recursive: true, force: true }),

  report(error) {
    queueMicrotask(() => {
      throw error;
    });
  },

  async picture(image) {
    if (image instanceof Blob) return { bytes: new Uint8Array(await image.arrayBuffer()) };
    if (typeof image !== 'string' && !(image instanceof URL)) return null;
    const file = path('image', image);
    try {
      return { bytes: new Uint8Array(await readFile(file)) };
    } catch (error) {
      throw new QLlamaError('E_IO', `${basename(file)}: ${error.code === 'ENOENT' ? 'not found' : error.code}`);
    }
  },
});
