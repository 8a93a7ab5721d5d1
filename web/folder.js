// A folder on disk, as far as files.js uses a browser's private file system.

import { closeSync, fsyncSync, ftruncateSync, mkdirSync, openSync, readFileSync, readSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { open, readFile, rm, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** Where this user's models are kept. */
export function cacheFolder() {
  const { env, platform } = process;
  const own = {
    darwin: () => join(homedir(), 'Library', 'Caches'),
    win32: () => env.LOCALAPPDATA || join(homedir(), 'AppData', 'Local'),
  }[platform];
  return join(own ? own() : env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'qllama', 'models');
}

export class Folder {
  #path;

  constructor(path) {
    this.#path = path;
  }

  async getDirectoryHandle(name, { create } = {}) {
    const path = join(this.#path, name);
    if (create) mkdirSync(path, { recursive: true });
    return new Folder(path);
  }

  async getFileHandle(name, { create } = {}) {
    const path = join(this.#path, name);
    if (create) closeSync(openSync(path, 'a'));
    else await stat(path);
    return new FileHandle(path);
  }

  async removeEntry(name, { recursive = false } = {}) {
    await rm(join(this.#path, name), { recursive });
  }
}

class FileHandle {
  #path;

  constructor(path) {
    this.#path = path;
  }

  async getFile() {
    const path = this.#path;
    const { size } = await stat(path);
    return { size, text: () => readFile(path, 'utf8'), slice: (start, end) => ({ arrayBuffer: () => part(path, start, Math.min(end, size)) }) };
  }

  async createSyncAccessHandle() {
    return new Access(this.#path);
  }
}

async function part(path, start, end) {
  const file = await open(path, 'r');
  try {
    const bytes = new Uint8Array(Math.max(end - start, 0));
    for (let at = 0; at < bytes.length; ) {
      const { bytesRead } = await file.read(bytes, at, bytes.length - at, start + at);
      // The file became shorter: the digest will tell.
      if (bytesRead === 0) return bytes.slice(0, at).buffer;
      at += bytesRead;
    }
    return bytes.buffer;
  } finally {
    await file.close();
  }
}

/** A file that is written by nobody else meanwhile. */
class Access {
  #file;
  #lock;

  constructor(path) {
    this.#lock = `${path}.lock`;
    hold(this.#lock);
    try {
      this.#file = openSync(path, 'r+');
    } catch (error) {
      rmSync(this.#lock, { force: true });
      throw error;
    }
  }

  read(bytes, { at }) {
    let done = 0;
    while (done < bytes.length) {
      const count = readSync(this.#file, bytes, done, bytes.length - done, at + done);
      if (count === 0) break;
      done += count;
    }
    return done;
  }

  write(bytes, { at }) {
    let done = 0;
    while (done < bytes.length) done += writeSync(this.#file, bytes, done, bytes.length - done, at + done);
    return done;
  }

  truncate(size) {
    ftruncateSync(this.#file, size);
  }

  flush() {
    fsyncSync(this.#file);
  }

  close() {
    closeSync(this.#file);
    rmSync(this.#lock, { force: true });
  }
}

/** Makes a lock file with this process's number; one that a dead process left, or this one long ago, is taken over. */
function hold(lock) {
  for (const last of [false, true]) {
    try {
      return writeFileSync(lock, String(process.pid), { flag: 'wx' });
    } catch (error) {
      if (error.code !== 'EEXIST' || last || !abandoned(lock)) throw error.code === 'EEXIST' ? new Error('another process writes it') : error;
      rmSync(lock, { force: true });
    }
  }
}

/** How old a lock of this process is, in milliseconds, when the thread that made it was ended in between. */
const OLD = 60000;

function abandoned(lock) {
  try {
    const holder = Number(readFileSync(lock, 'utf8'));
    if (holder === process.pid) return Date.now() - statSync(lock).mtimeMs > OLD;
    process.kill(holder, 0);
    return false;
  } catch (error) {
    return error.code === 'ESRCH' || error.code === 'ENOENT';
  }
}
