// A static server for the site, on this machine only: `serve.mjs FOLDER [PORT]`. Tests also have it serve more folders,
// count what it sends, and misbehave.

import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { pipeline } from 'node:stream/promises';

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.json': 'application/json', '.svg': 'image/svg+xml', '.png': 'image/png', '.wasm': 'application/wasm' };

/**
 * @param {Record<string, string>} folders by the path they stand under
 * @param {(name: string, request, response, file: { path: string, size: number }) => boolean | Promise<boolean>} [fault]
 *   answers a request itself and returns true, or leaves it
 */
export async function serve(folders, port = 0, fault = () => false) {
  const sent = [];
  const answer = async (request, response) => {
    const path = decodeURIComponent(new URL(request.url, 'http://localhost').pathname);
    const mount = Object.keys(folders).sort((a, b) => b.length - a.length).find((m) => path.startsWith(m));
    let file = join(folders[mount], normalize(path.slice(mount.length) || '.'));
    let found = await stat(file).catch(() => null);
    if (found?.isDirectory()) {
      file = join(file, 'index.html');
      found = await stat(file).catch(() => null);
    }
    const entry = { path, method: request.method, range: request.headers.range, bytes: 0 };
    sent.push(entry);
    if (await fault(path, request, response, { path: file, size: found?.size ?? 0 })) return;
    if (!found?.isFile()) {
      response.writeHead(404, { 'content-type': 'text/plain' }).end('not found\n');
      return;
    }
    const asked = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
    const start = asked ? Number(asked[1]) : 0;
    const end = asked?.[2] ? Math.min(found.size, Number(asked[2]) + 1) : found.size;
    const headers = {
      'content-type': TYPES[extname(file)] ?? 'application/octet-stream',
      'accept-ranges': 'bytes',
      'cache-control': 'no-cache',
      etag: `"${Math.round(found.mtimeMs).toString(16)}-${found.size.toString(16)}"`,
    };
    if (!asked && request.headers['if-none-match'] === headers.etag) {
      response.writeHead(304, headers).end();
      return;
    }
    if (asked && start >= end) {
      response.writeHead(416, { 'content-range': `bytes */${found.size}` }).end();
      return;
    }
    headers['content-length'] = end - start;
    if (asked) headers['content-range'] = `bytes ${start}-${end - 1}/${found.size}`;
    response.writeHead(asked ? 206 : 200, headers);
    if (request.method === 'HEAD' || end === start) {
      response.end();
      return;
    }
    entry.bytes = end - start;
    await pipeline(createReadStream(file, { start, end: end - 1 }), response).catch(() => {});
  };
  const server = createServer((request, response) => {
    answer(request, response).catch(() => response.destroy());
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  return {
    url: `http://localhost:${server.address().port}/`,
    /** What was asked for since the last call of `sent.splice(0)`. */
    sent,
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}

if (import.meta.filename === process.argv[1]) {
  const { url } = await serve({ '/': process.argv[2] }, Number(process.argv[3] ?? 8080));
  console.log(url);
}
