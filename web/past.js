// `pastKeyValues`: caches that stay on the GPU, behind handles. The worker keeps a cache under the number of the handle; a
// handle also knows how many of the cache's rows are its own. So a call that extends a cache and whose result nobody takes,
// because it was aborted, changes nothing for the handle.

import { QLlamaError, wrong } from './errors.js';
import { array, floats } from './values.js';

/** What a handle stands for: `{ of, id, rows, state, disposed }`; a state is '', or why the handle cannot be used. */
const inside = new WeakMap();

const USED_UP = 'was extended by a later call, which returned the handle to go on with';
const BUSY = 'is being extended by a call that has not ended';
const DISPOSED = 'was disposed of';

export class PastKeyValues {
  /** Use `forward` with `useCache`. */
  constructor(pasts, id, rows) {
    if (!(pasts instanceof Pasts)) throw new TypeError('forward returns PastKeyValues where useCache asks for them');
    inside.set(this, { of: pasts, id, rows, state: '', disposed: false });
  }

  /** Rows in the cache. */
  get length() {
    return inside.get(this).rows;
  }

  /** The keys and values of each layer, brought from the GPU. */
  async toArrays() {
    const { of } = inside.get(this);
    return of.call('pastToArrays', { past: of.taken(this) });
  }

  /** Frees the cache's memory; a second call does nothing. */
  dispose() {
    const { of } = inside.get(this);
    of.dispose(this);
  }
}

/** The caches of one model. */
export class Pasts {
  #next = 1;
  /** Calls a method of the worker. */
  call;
  /** Frees caches whose handles are gone. */
  #gone = new FinalizationRegistry((id) => this.#free(id));

  constructor(call) {
    this.call = call;
  }

  #free(id) {
    // Where the worker is gone so is the cache.
    this.call('freePast', { id }).catch(() => {});
  }

  /** A handle as the worker takes it; throws where it cannot be used. */
  taken(handle) {
    const { of, id, rows, state } = inside.get(handle);
    if (of !== this) throw new QLlamaError('E_STATE', 'pastKeyValues: this cache is of another model');
    if (state !== '') throw new QLlamaError('E_STATE', `pastKeyValues: this cache ${state}`);
    return { id, rows };
  }

  dispose(handle) {
    const it = inside.get(handle);
    if (it.disposed || it.state === USED_UP) return;
    it.disposed = true;
    // A call that extends the cache frees it when it fails.
    if (it.state === BUSY) return;
    it.state = DISPOSED;
    this.#gone.unregister(handle);
    this.#free(it.id);
  }

  /**
   * Runs `forward` with a handle, a list of layers, or nothing; `useCache` says whether it returns a handle.
   * @param {(past: object | undefined, keepAs: number | undefined) => Promise<object>} forward
   */
  async around(given, useCache, forward) {
    const handle = given instanceof PastKeyValues ? given : null;
    const past = handle ? this.taken(handle) : given == null ? undefined : layers(given);
    if (!useCache) return forward(past, undefined);
    const it = handle && inside.get(handle);
    const id = past?.id ?? this.#next++;
    if (it) it.state = BUSY;
    try {
      const { pastRows, ...outputs } = await forward(past, id);
      if (it) {
        it.state = USED_UP;
        this.#gone.unregister(handle);
      }
      outputs.pastKeyValues = new PastKeyValues(this, id, pastRows);
      this.#gone.register(outputs.pastKeyValues, id, outputs.pastKeyValues);
      return outputs;
    } catch (error) {
      if (!it) this.#free(id);
      else {
        it.state = '';
        if (it.disposed) {
          it.disposed = false;
          this.dispose(handle);
        }
      }
      throw error;
    }
  }
}

function layers(given) {
  if (!Array.isArray(given)) throw wrong('pastKeyValues: expected what forward returned, or a list of { key, value }');
  return given.map((layer, i) => {
    const part = (key) => array(`pastKeyValues[${i}].${key}`, layer?.[key], floats);
    return { key: part('key'), value: part('value') };
  });
}
