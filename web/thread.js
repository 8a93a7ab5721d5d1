// What worker.js expects of a browser's worker, in a thread of Node, Deno or Bun: its messages, WebGPU, the classes beside it,
// a place to keep files, and addresses of files on disk.

import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { parentPort } from 'node:worker_threads';
import { Folder, cacheFolder } from './folder.js';
import { findGpu } from './gpu.js';

const put = (on, name, value) => Object.defineProperty(on, name, { value, configurable: true, writable: true });

const overNetwork = globalThis.fetch;

/** As servers that send parts of files do. */
async function fetchFile(url, { method = 'GET', headers = {} } = {}) {
  const path = fileURLToPath(url);
  let found;
  try {
    found = await stat(path);
  } catch (error) {
    return new Response(null, { status: ['ENOENT', 'ENOTDIR'].includes(error.code) ? 404 : 403, statusText: `cannot be read (${error.code})` });
  }
  if (!found.isFile()) return new Response(null, { status: 403, statusText: 'not a file' });
  const { size, mtimeMs } = found;
  const about = {
    'accept-ranges': 'bytes',
    'content-length': String(size),
    'content-type': path.endsWith('.wasm') ? 'application/wasm' : 'application/octet-stream',
    etag: `"${mtimeMs}-${size}"`,
  };
  if (method === 'HEAD') return new Response(null, { headers: about });
  const range = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '');
  if (!range) return new Response(Readable.toWeb(createReadStream(path)), { headers: about });
  const [start, last] = [Number(range[1]), Number(range[2])];
  const bytes = new Uint8Array(last + 1 - start);
  const file = await open(path, 'r');
  try {
    for (let at = 0; at < bytes.length; ) {
      const { bytesRead } = await file.read(bytes, at, bytes.length - at, start + at);
      if (bytesRead === 0) return new Response(bytes.subarray(0, at), { status: 206, headers: { etag: about.etag } });
      at += bytesRead;
    }
  } finally {
    await file.close();
  }
  return new Response(bytes, { status: 206, headers: { etag: about.etag } });
}

put(globalThis, 'self', globalThis);
put(globalThis, 'onmessage', null);
put(globalThis, 'postMessage', (message) => parentPort.postMessage(message));
put(globalThis, 'fetch', (input, options) => {
  const url = input instanceof Request ? input.url : String(input);
  return /^file:/i.test(url) ? fetchFile(url, options) : overNetwork(input, options);
});
// wgpu looks for this name to know that it is in a worker.
globalThis.WorkerGlobalScope ??= class WorkerGlobalScope {};
if (!globalThis.addEventListener) {
  const heard = { error: 'uncaughtException', unhandledrejection: 'unhandledRejection' };
  put(globalThis, 'addEventListener', (type, listener) => {
    process.on(heard[type], (error) => {
      let prevented = false;
      listener({ error, preventDefault: () => (prevented = true) });
      if (prevented) return;
      // As without a listener: the thread ends, and its maker is told why.
      process.removeAllListeners('uncaughtException');
      setImmediate(() => {
        throw error;
      });
    });
  });
}
if (!globalThis.navigator) put(globalThis, 'navigator', {});
const { gpu, globals } = await findGpu();
for (const [name, value] of Object.entries(globals)) put(globalThis, name, value);
if (!navigator.gpu) put(navigator, 'gpu', gpu);
put(navigator, 'storage', {
  async getDirectory() {
    return new Folder(cacheFolder());
  },
});

await import('./worker.js');
parentPort.on('message', (data) => self.onmessage({ data }));
