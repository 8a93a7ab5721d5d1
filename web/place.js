// What a page does in its own way. Programs outside of browsers put functions of theirs here: node.js.

import { QLlamaError, wrong } from './errors.js';

const NO_WEBGPU =
  'this browser has no WebGPU. Chrome and Edge have it from version 113 on (Android: 121), Safari from 26, Firefox from 141 on Windows and 147 on Macs with Apple chips; Firefox on Linux has it where dom.webgpu.enabled is set to true in about:config';

/** The address of the engine's code. */
const CODE = new URL('./wasm/qllama_bg.wasm', import.meta.url);

let code = null;

/** The engine's code, fetched and compiled once for all models of a page. */
function engine() {
  code ??= compiled().catch((error) => {
    // To be tried again.
    code = null;
    throw error;
  });
  return code;
}

async function compiled() {
  let response;
  try {
    response = await fetch(CODE);
  } catch (error) {
    throw new QLlamaError('E_HTTP', `the engine could not be fetched from ${CODE.host}: ${error.message}`);
  }
  if (!response.ok) throw new QLlamaError('E_HTTP', `the engine could not be fetched from ${CODE.host}: HTTP status ${response.status}`);
  try {
    // Browsers compile while the code comes in, where a server tells its type.
    if (response.headers.get('content-type') === 'application/wasm') return await WebAssembly.compileStreaming(response);
    return await WebAssembly.compile(await response.arrayBuffer());
  } catch (error) {
    throw new QLlamaError('E_INTERNAL', `the engine could not be compiled: ${error.message}`);
  }
}

export const place = {
  /** Where models may be kept; the first by default. */
  caches: ['opfs', 'none'],

  noAdapter: 'this browser has WebGPU, but offers no GPU adapter: the GPU may be blocked, or hardware acceleration turned off in the settings',

  /** Why models cannot run here, as far as it shows without asking for an adapter; null where it does not. */
  async missing() {
    if (typeof Worker === 'undefined' || typeof WebAssembly === 'undefined') return 'this browser has no WebAssembly or no workers';
    if (!globalThis.isSecureContext) return 'WebGPU needs a secure page: open it by https, or from localhost';
    return navigator.gpu ? null : NO_WEBGPU;
  },

  async gpu() {
    return navigator.gpu;
  },

  /** The engine's code, compiled; null where the worker has to fetch it itself. */
  engine,

  /** Whether this script is another site's than the page's. */
  foreign: () => new URL(import.meta.url).origin !== globalThis.origin,

  /** The address that a caller means. */
  address(url, base = globalThis.document?.baseURI ?? globalThis.location?.href) {
    let absolute;
    try {
      absolute = new URL(url, base).href;
    } catch {
      throw wrong(`url: ${JSON.stringify(String(url).slice(0, 120))} is no address here: give a whole one, or baseUrl`);
    }
    if (!/^https?:/.test(absolute)) throw wrong('url: expected an address that begins with http: or https:');
    return absolute;
  },

  /**
   * Starts the worker. `busy(true)` and `busy(false)` say whether anybody waits for it. A script of another site may not be a
   * worker, but one of the page's own that imports it may.
   */
  worker(name) {
    let worker;
    if (place.foreign()) {
      const here = import.meta.url;
      const script = new Blob([`import ${JSON.stringify(new URL('worker.js', here).href)};`], { type: 'text/javascript' });
      const address = URL.createObjectURL(script);
      worker = new Worker(address, { type: 'module', name });
      worker.addEventListener('message', () => URL.revokeObjectURL(address), { once: true });
    } else {
      worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name });
    }
    worker.busy = () => {};
    return worker;
  },

  /** Calls `ended` when the worker, which is alive, is no more: by the lock that it holds while it lives. */
  watch(name, signal, ended) {
    navigator.locks.request(name, { signal }, ended).catch(() => {});
  },

  /** Deletes the models that are kept. */
  async clear() {
    const root = await navigator.storage.getDirectory();
    await root.removeEntry('qllama', { recursive: true });
  },

  /** Tells of an error of the caller's own, which is not the model's. */
  report(error) {
    reportError(error);
  },

  /** What only this place knows to be a picture, in a form that can be sent; null for all else. */
  async picture() {
    return null;
  },
};
