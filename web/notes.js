// What the engine found out about this browser's adapters: small files in the private file system, apart from the models.

const FOLDER = 'qllama-notes';

/** A browser names its adapter, and no driver: what it is itself stands for that. */
async function prefix(adapter) {
  const words = new TextEncoder().encode(`${adapter} ${navigator.userAgent}`);
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', words));
  return Array.from(hash.subarray(0, 8), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** `note` and `keep`, as the engine calls them. Where storage is refused there are no notes. */
export class Notes {
  /**
   * @param {() => string} adapter what the browser tells of the adapter in use
   * @param {boolean} kept whether anything may be written
   */
  constructor(adapter, kept) {
    const folder = async () => (await navigator.storage.getDirectory()).getDirectoryHandle(FOLDER, { create: kept });
    const place = async (name) => `${await prefix(adapter())}-${name}`;

    /** A note's bytes; null where there is none. */
    this.note = async (name) => {
      try {
        const handle = await (await folder()).getFileHandle(await place(name));
        return new Uint8Array(await (await handle.getFile()).slice(0, 1 << 20).arrayBuffer());
      } catch {
        return null;
      }
    };

    this.keep = async (name, bytes) => {
      if (!kept) return;
      const handle = await (await folder()).getFileHandle(await place(name), { create: true });
      const access = await handle.createSyncAccessHandle();
      try {
        access.truncate(0);
        access.write(bytes, { at: 0 });
        access.flush();
      } finally {
        access.close();
      }
    };
  }
}
