// A checkpoint's files for the engine: by HTTP, kept in the origin private file system. Runs in the worker.
//
// A file comes in once, from its start to its end, into storage; whoever reads a part waits until that part is there.
// With it are kept its size, its SHA-256 and one digest for each CHUNK bytes. An interrupted file goes on where it
// stopped; a kept file is checked, chunk by chunk, before its bytes are used, and never asked of the network again.
// Where storage is refused or full, parts are asked of the server as they are wanted.

import { Sha256 } from './sha256.js';

const CHUNK = 4 << 20;
/** How much a direct read asks for at least, as tensors are often small. */
const WINDOW = 8 << 20;
const WINDOWS_KEPT = 3;
/** Files up to this size are read into memory whole. */
const SMALL = 1 << 20;
const FOLDER = 'qllama';

/** An error with the fields that the engine's own errors have. */
export function fault(code, fields) {
  const error = new Error(fields.reason ?? code);
  return Object.assign(error, { code }, fields);
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    // A percent sign that stands for itself.
    return text;
  }
}

const aborted = () => fault('E_ABORTED', { reason: 'cancelled' });

async function digest(bytes) {
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** A digest that the server publishes: RFC 9530's header, or an ETag that is a SHA-256 (as Hugging Face sends). */
function published(headers) {
  const field = /sha-256=:([A-Za-z0-9+/=]+):/.exec(headers.get('repr-digest') ?? '');
  if (field) {
    const bytes = atob(field[1]);
    return Array.from(bytes, (c) => c.charCodeAt(0).toString(16).padStart(2, '0')).join('');
  }
  const etag = (headers.get('x-linked-etag') ?? headers.get('etag') ?? '').replace(/^W\/|"/g, '');
  return /^[0-9a-f]{64}$/.test(etag) ? etag : null;
}

export class Files {
  #base;
  /** The name of the only file, where the model is one. */
  single;
  #cached;
  #folder = null;
  #files = new Map();
  #signal;
  #onDownload;
  #downloads = new Set();
  /** Bytes that came over the network. */
  networkBytes = 0;
  /** Why nothing is kept, where that is so. */
  storageNote = null;

  /**
   * @param {string} url a folder, or a GGUF file
   * @param {{ cache: 'opfs' | 'none', signal: AbortSignal, onDownload: (bytes: number, total: number) => void }} options
   */
  constructor(url, options) {
    this.#base = new URL(url);
    const last = this.#base.pathname.split('/').pop();
    if (/\.gguf$/i.test(last)) this.single = decoded(last).replace(/[^\w.-]/g, '_').slice(-255);
    else if (last !== '') this.#base.pathname += '/';
    this.#signal = options.signal;
    this.#onDownload = options.onDownload;
    // What lies on disk is read where it is.
    this.#cached = options.cache !== 'none' && !this.#onDisk;
  }

  /** Opens the place where this checkpoint is kept. */
  async open() {
    if (!this.#cached) return;
    try {
      const root = await navigator.storage.getDirectory();
      const all = await root.getDirectoryHandle(FOLDER, { create: true });
      const name = (await digest(new TextEncoder().encode(this.#base.href))).slice(0, 32);
      this.#folder = await all.getDirectoryHandle(name, { create: true });
    } catch (error) {
      this.storageNote = `storage is refused: ${error.message}`;
    }
  }

  #stop() {
    if (this.#signal.aborted) throw aborted();
  }

  /** The size of a file, or null where there is none. */
  async size(name) {
    return (await this.#file(name)).size;
  }

  /** Bytes of a file, from `offset` on. */
  async read(name, offset, length) {
    const file = await this.#file(name);
    if (file.size === null) throw fault('E_IO', { file: name, reason: 'not found' });
    if (offset + length > file.size) throw fault('E_TRUNCATED', { file: name, need: offset + length, have: file.size });
    if (length === 0) return new Uint8Array(0);
    return file.read(offset, length);
  }

  #file(name) {
    let file = this.#files.get(name);
    if (!file) {
      file = this.#find(name);
      // A file that failed may be asked for again.
      file.catch(() => this.#files.delete(name));
      this.#files.set(name, file);
    }
    return file;
  }

  async #find(name) {
    this.#stop();
    let stored = await this.#stored(name);
    if (stored.file || !this.#folder || !navigator.locks) return stored.file ?? this.#fetched(name, stored.partial);
    // Pages that load a model together fetch it once: the others wait, and then have it from storage.
    const release = await this.#alone(name);
    try {
      stored = await this.#stored(name);
      const file = stored.file ?? (await this.#fetched(name, stored.partial));
      Promise.resolve(file.done).catch(() => {}).finally(release);
      return file;
    } catch (error) {
      release();
      throw error;
    }
  }

  /** What storage has of a file: the `file` where it is whole or known not to be there, or what there is of it. */
  async #stored(name) {
    const kept = this.#folder && (await this.#meta(name));
    if (kept?.absent) return { file: { size: null } };
    if (!kept?.complete) return { partial: kept };
    return { file: await this.#kept(name, kept) };
  }

  /** Waits until no other page fetches a file into storage; resolves to what lets the next one. */
  async #alone(name) {
    const download = { bytes: 0, total: 0 };
    // How far the other page is, as far as it shows.
    const look = setInterval(async () => {
      const handle = await this.#folder?.getFileHandle(name).catch(() => null);
      const file = await handle?.getFile().catch(() => null);
      const meta = this.#folder && (await this.#meta(name));
      Object.assign(download, { bytes: file?.size ?? 0, total: meta?.size ?? 0 });
      if (this.#downloads.has(download)) this.#report();
    }, 500);
    this.#downloads.add(download);
    try {
      return await new Promise((resolve, reject) => {
        const lock = `qllama/${this.#base.href}/${name}`;
        const held = () => new Promise((release) => resolve(release));
        navigator.locks.request(lock, { signal: this.#signal }, held).catch(reject);
      });
    } catch (error) {
      this.#stop();
      throw error;
    } finally {
      clearInterval(look);
      this.#downloads.delete(download);
    }
  }

  async #meta(name, folder = this.#folder) {
    try {
      const handle = await folder.getFileHandle(`${name}.meta`);
      return JSON.parse(await (await handle.getFile()).text());
    } catch {
      // Nothing is there, or it was cut short: the file is fetched anew.
      return null;
    }
  }

  async #forget(name, folder = this.#folder) {
    for (const entry of [`${name}.meta`, name]) await folder?.removeEntry(entry).catch(() => {});
  }

  /** A file that storage has whole; null where it does not, after all. */
  async #kept(name, meta, folder = this.#folder) {
    let file;
    try {
      file = await (await folder.getFileHandle(name)).getFile();
    } catch {
      return null;
    }
    if (file.size !== meta.size) {
      await this.#forget(name, folder);
      return null;
    }
    const chunk = lastOf(async (index) => {
      this.#stop();
      const bytes = new Uint8Array(await file.slice(index * CHUNK, (index + 1) * CHUNK).arrayBuffer());
      const found = await digest(bytes);
      if (found !== meta.chunks[index]) {
        await this.#forget(name, folder);
        throw fault('E_INTEGRITY', {
          file: name,
          expected: `SHA-256 ${meta.chunks[index]} of chunk ${index} in this browser's storage`,
          found: `${found}; the damaged copy was deleted, load again to fetch the file anew`,
        });
      }
      return bytes;
    }, 4);
    return { size: meta.size, etag: meta.etag, kept: true, read: (offset, length) => gather(chunk, CHUNK, offset, length) };
  }

  async #request(name, range) {
    this.#stop();
    const url = this.#address(name);
    const headers = range ? { range: `bytes=${range[0]}-${range[1] ?? ''}` } : {};
    let response;
    try {
      // What is kept is kept by this file: the browser's own cache would hold everything twice.
      response = await fetch(url, { headers, signal: this.#signal, credentials: 'same-origin', cache: range ? 'no-store' : 'default' });
    } catch (error) {
      this.#stop();
      throw fault('E_HTTP', { file: this.#at(name), status: 0, reason: `no answer (${error.message}); is the network there, and does the server allow this page (CORS)?` });
    }
    return response;
  }

  #address(name) {
    return name === this.single ? this.#base : new URL(name, this.#base);
  }

  #at(name) {
    return `${this.#base.host}: ${name}`;
  }

  get #onDisk() {
    return this.#base.protocol === 'file:';
  }

  #bad(name, response) {
    if (this.#onDisk) return fault('E_IO', { file: name, reason: response.statusText });
    const reason = response.statusText || { 401: 'permission needed', 403: 'forbidden', 404: 'not found' }[response.status] || 'the server could not send it';
    return fault('E_HTTP', { file: this.#at(name), status: response.status, reason });
  }

  async #fetched(name, partial) {
    let have = 0;
    let sink = this.#folder ? await Sink.open(this.#folder, name, partial, this) : null;
    if (sink) have = sink.have;
    let response = await this.#request(name, have > 0 ? [have] : null);
    if (response.status === 404 || response.status === 410) {
      sink?.close();
      if (this.#folder) {
        await this.#forget(name);
        await writeMeta(this.#folder, name, { absent: true }).catch(() => {});
      }
      return { size: null };
    }
    let size = null;
    const resumed = have > 0 && response.status === 206;
    if (resumed) {
      const range = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(response.headers.get('content-range') ?? '');
      size = range ? Number(range[3]) : partial.size;
      const moved = range && Number(range[1]) !== have;
      if (moved || size !== partial.size || response.headers.get('etag') !== partial.etag) {
        // The file on the server is another one now.
        await response.body?.cancel();
        sink.restart();
        have = 0;
        response = await this.#request(name, null);
      }
    } else if (have > 0) {
      // 200: the whole file again. 416 and the like: what is kept does not fit.
      sink.restart();
      have = 0;
      if (!response.ok) response = await this.#request(name, null);
    }
    if (!response.ok) {
      sink?.close();
      throw this.#bad(name, response);
    }
    if (/text\/html/.test(response.headers.get('content-type') ?? '')) {
      sink?.close();
      await response.body?.cancel();
      throw fault('E_HTTP', { file: this.#at(name), status: response.status, reason: 'the server sent a web page in place of the file' });
    }
    if (have === 0) {
      const length = response.headers.get('content-length');
      // With a content encoding the length is that of the encoded bytes.
      size = length !== null && !response.headers.get('content-encoding') ? Number(length) : null;
    }
    const etag = response.headers.get('etag');
    if (size === null || size <= SMALL) return this.#whole(name, response, sink, have, size, etag);
    if (!sink) {
      if (response.headers.get('accept-ranges') === 'bytes') {
        await response.body?.cancel();
        return this.#ranges(name, size, etag);
      }
      return this.#whole(name, response, null, 0, size, etag);
    }
    return this.#streamed(name, response, sink, size, etag);
  }

  /** A body that is small, or of unknown length, or that has nowhere to go: in memory, and in storage where possible. */
  async #whole(name, response, sink, have, size, etag) {
    const parts = have > 0 ? [sink.readBack()] : [];
    let total = have;
    const download = { bytes: have, total: size ?? 0 };
    this.#downloads.add(download);
    try {
      for await (const part of this.#body(name, response)) {
        parts.push(part);
        total += part.length;
        download.bytes = total;
        this.#report();
      }
      if (size !== null && total !== size) throw fault('E_TRUNCATED', { file: name, need: size, have: total });
      const hash = new Sha256();
      for (const part of parts) hash.update(part);
      this.#compare(name, hash.hex(), published(response.headers));
      if (sink) {
        try {
          sink.restart();
          for (const part of parts) await sink.write(part);
          await sink.finish({ size: total, etag });
        } catch (error) {
          await this.#refused(name, sink, error);
        }
      }
    } catch (error) {
      sink?.close();
      throw error;
    } finally {
      this.#downloads.delete(download);
    }
    const starts = [];
    let at = 0;
    for (const part of parts) {
      starts.push(at);
      at += part.length;
    }
    const read = async (offset, length) => {
      const out = new Uint8Array(length);
      for (let i = 0; i < parts.length; i++) {
        const from = Math.max(offset, starts[i]);
        const to = Math.min(offset + length, starts[i] + parts[i].length);
        if (from < to) out.set(parts[i].subarray(from - starts[i], to - starts[i]), from - offset);
      }
      return out;
    };
    return { size: total, etag, read };
  }

  async *#body(name, response) {
    const reader = response.body.getReader();
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        if (!this.#onDisk) this.networkBytes += value.length;
        yield value;
      }
    } catch (error) {
      this.#stop();
      throw fault('E_HTTP', { file: this.#at(name), status: response.status, reason: `the connection was cut (${error.message}); what came in is kept, load again to go on` });
    } finally {
      reader.cancel().catch(() => {});
    }
  }

  #compare(name, found, expected) {
    if (expected !== null && expected !== found) {
      throw fault('E_INTEGRITY', { file: name, expected: `SHA-256 ${expected}, as the server says`, found });
    }
  }

  #report() {
    let bytes = 0;
    let total = 0;
    for (const download of this.#downloads) {
      bytes += download.bytes;
      total += download.total;
    }
    this.#onDownload(bytes, total);
  }

  async #refused(name, sink, error) {
    this.storageNote = `storage is full or refused: ${error.message}`;
    this.#folder = null;
    sink.close();
    await this.#forget(name, sink.folder);
  }

  /** A large file, into storage while it is read. */
  #streamed(name, response, sink, size, etag) {
    const download = { bytes: sink.have, total: size };
    this.#downloads.add(download);
    const waiting = new Set();
    let failed = null;
    let complete = false;
    // Where reads go once storage has given up.
    let instead = null;
    const wake = () => {
      for (const resolve of waiting) resolve();
      waiting.clear();
    };
    const run = async () => {
      const expected = published(response.headers);
      for await (const part of this.#body(name, response)) {
        if (sink.have + part.length > size) {
          throw fault('E_INTEGRITY', { file: name, expected: `${size} bytes`, found: 'more' });
        }
        try {
          await sink.write(part, { size, etag });
        } catch (error) {
          await this.#refused(name, sink, error);
          instead = this.#ranges(name, size, etag);
          return;
        }
        download.bytes = sink.have;
        this.#report();
        wake();
      }
      if (sink.have !== size) throw fault('E_TRUNCATED', { file: name, need: size, have: sink.have });
      try {
        this.#compare(name, sink.sha256(), expected);
      } catch (error) {
        sink.close();
        await this.#forget(name, sink.folder);
        throw error;
      }
      await sink.finish({ size, etag });
      complete = true;
    };
    const done = run()
      .catch(async (error) => {
        failed = error;
        await sink.suspend({ size, etag });
        // Whoever had all that they wanted by then must still learn of it.
        if (error.code === 'E_INTEGRITY' || error.code === 'E_ABORTED') throw error;
        this.storageNote = error.message;
      })
      .finally(() => {
        this.#downloads.delete(download);
        wake();
      });
    done.catch(() => {});
    let after = null;
    return {
      size,
      etag,
      done,
      read: async (offset, length) => {
        for (;;) {
          if (failed) throw failed;
          if (instead) return instead.read(offset, length);
          if (complete) {
            after ??= this.#meta(name, sink.folder).then((meta) => meta && this.#kept(name, meta, sink.folder));
            const file = await after;
            if (!file) throw fault('E_STORAGE', { reason: `${name} vanished from storage` });
            return file.read(offset, length);
          }
          if (sink.open && sink.have >= offset + length) return sink.read(offset, length);
          await new Promise((resolve) => waiting.add(resolve));
          this.#stop();
        }
      },
    };
  }

  /** A file that is not kept: each window by a request of its own. */
  #ranges(name, size, etag) {
    const window = lastOf(async (index) => {
      const start = index * WINDOW;
      const end = Math.min(start + WINDOW, size);
      const response = await this.#request(name, [start, end - 1]);
      if (response.status !== 206) {
        await response.body?.cancel();
        if (!response.ok) throw this.#bad(name, response);
        throw fault('E_STORAGE', { reason: `${name} cannot be kept here, and the server does not send parts of it` });
      }
      if ((response.headers.get('etag') ?? etag) !== etag) {
        throw fault('E_INTEGRITY', { file: name, expected: 'the file that loading began with', found: 'another: it changed on the server' });
      }
      const bytes = new Uint8Array(end - start);
      let at = 0;
      for await (const part of this.#body(name, response)) {
        if (at + part.length > bytes.length) throw fault('E_INTEGRITY', { file: name, expected: `${bytes.length} bytes`, found: 'more' });
        bytes.set(part, at);
        at += part.length;
      }
      if (at !== bytes.length) throw fault('E_TRUNCATED', { file: name, need: end, have: start + at });
      return bytes;
    }, WINDOWS_KEPT);
    return { size, etag, read: (offset, length) => gather(window, WINDOW, offset, length) };
  }

  /** Waits until everything that comes in is kept. */
  async finish() {
    for (const file of this.#files.values()) await (await file).done;
    // Weights may be read again for a picture, which the signal of loading is not about.
    this.#signal = new AbortController().signal;
  }

  /** Whether anything came from storage. */
  async fromStorage() {
    for (const file of this.#files.values()) if ((await file).kept) return true;
    return false;
  }

  /** After a load that failed by what files hold: small files, and that a file is not there, are asked for anew. */
  async doubt() {
    for (const [name, opening] of this.#files) {
      const file = await opening.catch(() => null);
      if (file && (file.size === null || file.size <= SMALL)) await this.#forget(name);
    }
    await this.revalidate();
  }

  /** Asks the server whether kept files changed, and forgets those that did: the next visit fetches them anew. */
  async revalidate() {
    for (const [name, opening] of this.#files) {
      const file = await opening.catch(() => null);
      if (!file?.kept) continue;
      let response;
      try {
        response = await fetch(this.#address(name), { method: 'HEAD', cache: 'no-store' });
      } catch {
        return;
      }
      const length = response.headers.get('content-length');
      const other = response.headers.get('etag') !== file.etag || (length !== null && Number(length) !== file.size);
      if (response.ok && other) await this.#forget(name);
    }
  }
}

/** Keeps the last few results of an asynchronous function of a number. */
function lastOf(make, count) {
  const kept = new Map();
  return (index) => {
    let value = kept.get(index);
    if (value) kept.delete(index);
    else {
      value = make(index);
      value.catch(() => kept.delete(index));
    }
    kept.set(index, value);
    if (kept.size > count) kept.delete(kept.keys().next().value);
    return value;
  };
}

/** Bytes out of pieces of `step` bytes each. */
async function gather(piece, step, offset, length) {
  const out = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const index = Math.floor((offset + at) / step);
    const bytes = await piece(index);
    const from = offset + at - index * step;
    const part = bytes.subarray(from, from + length - at);
    if (part.length === 0) throw fault('E_IO', { reason: 'storage gave too few bytes' });
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Writes all bytes, or throws: browsers report a full disk by a short count, and some by a wrong one. */
function put(access, bytes, at) {
  const written = access.write(bytes, { at });
  if (written !== bytes.length) throw fault('E_STORAGE', { reason: 'the disk or this page’s share of it is full' });
}

async function writeMeta(folder, name, meta) {
  const handle = await folder.getFileHandle(`${name}.meta`, { create: true });
  const access = await handle.createSyncAccessHandle();
  try {
    const bytes = new TextEncoder().encode(JSON.stringify(meta));
    access.truncate(0);
    put(access, bytes, 0);
    access.flush();
  } finally {
    access.close();
  }
}

/** A file in storage that is being written. */
class Sink {
  have = 0;
  open = true;
  #access;
  #chunks = [];
  #hash = new Sha256();
  #sha256 = null;
  folder;
  #name;
  #noted = 0;

  /** Null where another page writes the file, or storage is refused. */
  static async open(folder, name, partial, owner) {
    const sink = new Sink();
    try {
      const handle = await folder.getFileHandle(name, { create: true });
      sink.#access = await handle.createSyncAccessHandle();
    } catch (error) {
      owner.storageNote = `storage is refused: ${error.message}`;
      return null;
    }
    sink.folder = folder;
    sink.#name = name;
    await sink.#resume(partial);
    return sink;
  }

  /** Takes the whole chunks of an earlier try, as long as they are what they were. */
  async #resume(partial) {
    for (const expected of partial?.chunks ?? []) {
      const bytes = new Uint8Array(CHUNK);
      const read = this.#access.read(bytes, { at: this.have });
      if (read !== CHUNK || (await digest(bytes)) !== expected) break;
      this.#hash.update(bytes);
      this.#chunks.push(expected);
      this.have += CHUNK;
    }
    this.#noted = this.have;
    this.#access.truncate(this.have);
  }

  restart() {
    this.have = 0;
    this.#noted = 0;
    this.#chunks = [];
    this.#hash = new Sha256();
    this.#sha256 = null;
    this.#access.truncate(0);
  }

  readBack() {
    return this.read(0, this.have);
  }

  read(offset, length) {
    const bytes = new Uint8Array(length);
    if (this.#access.read(bytes, { at: offset }) !== length) throw fault('E_STORAGE', { reason: 'storage gave too few bytes' });
    return bytes;
  }

  async write(bytes, meta) {
    put(this.#access, bytes, this.have);
    this.#hash.update(bytes);
    this.have += bytes.length;
    while (this.have >= (this.#chunks.length + 1) * CHUNK) {
      this.#chunks.push(await digest(this.read(this.#chunks.length * CHUNK, CHUNK)));
    }
    if (meta && this.have - this.#noted >= 8 * CHUNK) await this.#note(meta);
  }

  async #note(meta) {
    this.#access.flush();
    this.#noted = this.have;
    await writeMeta(this.folder, this.#name, { ...meta, chunks: this.#chunks, complete: false });
  }

  sha256() {
    this.#sha256 ??= this.#hash.hex();
    return this.#sha256;
  }

  async finish(meta) {
    const rest = this.have - this.#chunks.length * CHUNK;
    if (rest > 0) this.#chunks.push(await digest(this.read(this.#chunks.length * CHUNK, rest)));
    this.#access.flush();
    await writeMeta(this.folder, this.#name, { ...meta, chunks: this.#chunks, sha256: this.sha256(), complete: true });
    this.close();
  }

  /** Keeps what came in, for another try. */
  async suspend(meta) {
    if (!this.open) return;
    try {
      await this.#note(meta);
    } catch {
      // Then the next try begins anew.
    }
    this.close();
  }

  close() {
    if (this.open) this.#access.close();
    this.open = false;
  }
}
