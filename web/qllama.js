// QLlama: captions, matching and text on WebGPU. All work happens in a worker that owns the model.

import { QLlamaError, wrong } from './errors.js';
import { hubAddress } from './hub.js';
import { PastKeyValues, Pasts } from './past.js';
import { place } from './place.js';
import { array, bitmaps, floats, transferable, wellFormed, wholeNumbers } from './values.js';

export { PastKeyValues, QLlamaError };

const abortError = (signal) =>
  signal?.reason instanceof Error && signal.reason.name === 'AbortError' ? signal.reason : new DOMException('The call was aborted', 'AbortError');

export class QLlama {
  /** Keeps the constructor to `load`. */
  static #key = Symbol('load');
  #worker;
  /** Calls that are not answered yet, by id. */
  #calls = new Map();
  #next = 0;
  /** Why the worker is no more. */
  #dead = null;
  #info = {};
  /** Whether the engine goes on by itself where its device is lost. */
  #recover = true;
  /** Listeners by the events that they hear. */
  #listeners = { recovered: new Set() };
  /** Aborted with the worker's end. */
  #ended = new AbortController();
  #pasts = new Pasts((method, args) => this.#call(method, args));
  /** The worker's, and of the lock that it holds. */
  #name;

  /** Use `QLlama.load`. */
  constructor(key) {
    if (key !== QLlama.#key) throw new TypeError('use QLlama.load(url)');
    this.#name = `qllama-${Date.now()}-${Math.random().toString(36).slice(2)}`;
    this.#worker = place.worker(this.#name);
    this.#worker.onmessage = ({ data }) => this.#received(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const help = place.foreign() ? ': it is of another site, which must allow that (CORS), as must this page (worker-src blob:, where it has a Content-Security-Policy)' : '';
      this.#die('E_INTERNAL', `the worker could not run: ${event.message ?? `its script did not load${help}`}`);
    };
    this.#worker.onmessageerror = () => this.#die('E_INTERNAL', 'a message of the worker could not be read');
  }

  /** Whether models can run here: `{ ok, reason? }`. Asks for an adapter; `load` does so itself. */
  static async supported() {
    const reason = await place.missing();
    if (reason) return { ok: false, reason };
    let adapter = null;
    try {
      adapter = await (await place.gpu()).requestAdapter({ powerPreference: 'high-performance' });
    } catch {
      // The same as none.
    }
    if (!adapter) return { ok: false, reason: place.noAdapter };
    const buffers = adapter.limits.maxStorageBuffersPerShaderStage;
    if (buffers < 8) return { ok: false, reason: `the GPU adapter allows ${buffers} storage buffers a shader, and 8 are needed` };
    return { ok: true };
  }

  /**
   * Loads a model from the URL of its folder or GGUF file, absolute or relative to the page or to `baseUrl`; or by its name on
   * the Hugging Face hub, as `hf:org/name@revision`.
   */
  static async load(url, options = {}) {
    const { onProgress, signal, cache = place.caches[0], memoryBudget, kvCache, recover = true, check = 'on', baseUrl } = options ?? {};
    if (typeof url !== 'string' && !(url instanceof URL)) throw wrong('url: expected the address of a model folder or of a .gguf file');
    if (!place.caches.includes(cache)) throw wrong(`cache: expected "${place.caches.join('" or "')}"`);
    if (memoryBudget !== undefined && !(Number.isFinite(memoryBudget) && memoryBudget > 0)) {
      throw wrong('memoryBudget: expected a number of bytes above 0');
    }
    if (!['on', 'off', 'again'].includes(check)) throw wrong('check: expected "on", "off" or "again"');
    if (typeof recover !== 'boolean') throw wrong('recover: expected true or false');
    const named = hubAddress(url, place.hub);
    const absolute = named ? place.address(named) : place.address(url, baseUrl);
    if (signal?.aborted) throw abortError(signal);
    const reason = await place.missing();
    if (reason) throw new QLlamaError('E_ADAPTER', reason);
    const model = new QLlama(QLlama.#key);
    model.#recover = recover;
    try {
      const code = await model.#until(place.engine(), signal);
      const loaded = await model.#call('load', { code, url: absolute, cache, options: { memoryBudget, kvCache, check, recover } }, { signal, onProgress });
      Object.assign(model.#info, { fromStorage: loaded.fromStorage, loadSeconds: loaded.seconds });
      return model;
    } catch (error) {
      await model.dispose();
      throw error;
    }
  }

  /** Deletes the models kept in this browser for this site, or in this user's cache folder. Models that are loaded stay so. */
  static async clearCache() {
    try {
      await place.clear();
    } catch (error) {
      if (error.name !== 'NotFoundError') throw new QLlamaError('E_STORAGE', `the cache could not be cleared: ${error.message}`);
    }
  }

  /** What is loaded, what it runs on, and the memory it takes; renewed with each call. */
  get info() {
    return { ...this.#info };
  }

  /** Has `listener` hear of an event: `recovered`. Returns a function that ends that. */
  on(event, listener) {
    if (!Object.hasOwn(this.#listeners, event)) throw wrong('event: expected "recovered"');
    if (typeof listener !== 'function') throw wrong('listener: expected a function');
    const listeners = this.#listeners[event];
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  /** Tells who listens to an event. */
  #tell(event, what) {
    for (const listener of [...this.#listeners[event]]) heard(listener, what);
  }

  /** Writes a caption, piece by piece. */
  caption(image, options = {}) {
    return this.#stream('caption', image, options ?? {});
  }

  /** The whole caption. */
  async captionText(image, options = {}) {
    return whole(this.caption(image, options));
  }

  /** Continues a prompt, piece by piece. */
  generate(options = {}) {
    const { image, inputIds, ...rest } = options ?? {};
    return this.#stream('generate', image, rest, inputIds);
  }

  /** Probabilities, pictures by texts. */
  async match(images, texts, options = {}) {
    const { mode = 'c', signal } = options ?? {};
    if (!['c', 'g', 'itm'].includes(mode)) throw wrong('mode: expected "c", "g" or "itm"');
    if (!Array.isArray(images) || images.length === 0) throw wrong('images: expected a list of pictures');
    if (!Array.isArray(texts) || texts.length === 0 || !texts.every((text) => typeof text === 'string')) {
      throw wrong('texts: expected a list of strings');
    }
    const sent = await Promise.all(images.map(transferable));
    return this.#call('match', { images: sent, texts: texts.map(wellFormed), mode }, { signal, transfer: bitmaps(sent) });
  }

  /** A picture's embedding, not normalised. */
  async embedImage(image, options = {}) {
    const { mode = 'c', signal } = options ?? {};
    if (mode !== 'c' && mode !== 'g') throw wrong('mode: expected "c" or "g"');
    const sent = await transferable(image);
    return this.#call('embedImage', { image: sent, mode }, { signal, transfer: bitmaps([sent]) });
  }

  /** A text's embedding, not normalised. */
  async embedText(text, options = {}) {
    if (typeof text !== 'string') throw wrong('text: expected a string');
    return this.#call('embedText', { text: wellFormed(text) }, { signal: options?.signal });
  }

  /** The decoder's forward pass, as in the published modules. With `useCache` the cache stays on the GPU, behind a handle. */
  async forward(inputs, options = {}) {
    if (inputs === null || typeof inputs !== 'object') throw wrong('expected an object of inputs');
    const sent = {};
    for (const key of ['inputIds', 'attentionMask', 'positionIds', 'labels']) {
      if (inputs[key] != null) sent[key] = array(key, inputs[key], wholeNumbers);
    }
    for (const key of ['inputsEmbeds', 'queryEmbeds', 'visionHiddenStates']) {
      if (inputs[key] != null) sent[key] = array(key, inputs[key], floats);
    }
    for (const key of ['useCache', 'useZeroAttentionMask', 'outputAttentions', 'outputCrossAttentions', 'outputHiddenStates', 'outputLogits', 'outputLastHiddenState']) {
      if (inputs[key] !== undefined) sent[key] = Boolean(inputs[key]);
    }
    if (inputs.repeatTime != null) sent.repeatTime = inputs.repeatTime;
    return this.#pasts.around(inputs.pastKeyValues, sent.useCache, (past, keepAs) =>
      this.#call('forward', { inputs: { ...sent, pastKeyValues: past, keepAs } }, { signal: options?.signal }),
    );
  }

  /** The picture's rows, as `forward` takes them in `visionHiddenStates`. */
  async visionHiddenStates(image, options = {}) {
    const sent = await transferable(image);
    return this.#call('visionHiddenStates', { image: sent }, { signal: options?.signal, transfer: bitmaps([sent]) });
  }

  /** Where the query tokens look in a picture. */
  async attention(image, options = {}) {
    const { layer = -1, signal } = options ?? {};
    if (!Number.isInteger(layer) || Math.abs(layer) > 1e6) throw wrong('layer: expected a whole number');
    const sent = await transferable(image);
    const map = await this.#call('attention', { image: sent, layer }, { signal, transfer: bitmaps([sent]) });
    const { perQuery, queries, ...rest } = map;
    const size = map.width * map.height;
    return { ...rest, perToken: Array.from({ length: queries }, (_, q) => perQuery.slice(q * size, (q + 1) * size)) };
  }

  /** Frees the model and ends the worker. Pending calls are rejected; a second `dispose` does nothing. */
  async dispose() {
    this.#die('E_STATE', 'the model was disposed of; load it again');
  }

  /** Ends the worker, which frees its GPU device and its memory, also where a call runs; rejects what is pending. */
  #die(code, message) {
    if (this.#dead) return;
    this.#dead = new QLlamaError(code, message);
    this.#ended.abort();
    this.#worker.terminate();
    for (const call of [...this.#calls.values()]) call.settle(() => call.reject(this.#dead));
  }

  /** Learns of the worker's end. */
  #watch() {
    place.watch(this.#name, this.#ended.signal, () => this.#die('E_DEVICE_LOST', 'the worker ended; load the model again'));
  }

  #received(data) {
    if (data.alive) return this.#watch();
    if (data.fatal) return this.#die('E_INTERNAL', data.fatal);
    if (data.lost) return this.#die('E_DEVICE_LOST', data.lost);
    if (data.recovered) return this.#tell('recovered', data.recovered);
    if (data.info) Object.assign(this.#info, data.info);
    if (data.error?.code === 'E_DEVICE_LOST' && !this.#recover) return this.#die('E_DEVICE_LOST', data.error.message);
    const call = this.#calls.get(data.id);
    if (!call) return;
    if (data.progress) {
      heard(call.onProgress, data.progress);
    } else if (data.piece !== undefined) {
      call.onPiece?.(data.piece);
    } else if (data.error) {
      const { code, message } = data.error;
      call.settle(() => call.reject(code === 'E_ABORTED' ? abortError(call.signal) : new QLlamaError(code, message)));
    } else {
      call.settle(() => call.resolve(data.value));
    }
  }

  /** What a promise resolves to, unless the worker ends or the call is aborted before. */
  async #until(promise, signal) {
    if (this.#dead) throw this.#dead;
    let stop;
    const stopped = new Promise((_, reject) => {
      stop = () => reject(this.#dead ?? abortError(signal));
    });
    stopped.catch(() => {});
    for (const which of [signal, this.#ended.signal]) which?.addEventListener('abort', stop);
    try {
      return await Promise.race([promise, stopped]);
    } finally {
      signal?.removeEventListener('abort', stop);
    }
  }

  #call(method, args, { signal, onPiece, onProgress, transfer = [] } = {}) {
    if (this.#dead) return Promise.reject(this.#dead);
    if (signal?.aborted) return Promise.reject(abortError(signal));
    return new Promise((resolve, reject) => {
      const id = this.#next++;
      const abort = () => {
        this.#worker.postMessage({ abort: id });
        call.settle(() => reject(abortError(signal)));
      };
      const call = {
        resolve,
        reject,
        signal,
        onPiece,
        onProgress,
        settle: (how) => {
          this.#calls.delete(id);
          if (this.#calls.size === 0) this.#worker.busy(false);
          signal?.removeEventListener('abort', abort);
          how();
        },
      };
      this.#calls.set(id, call);
      this.#worker.busy(true);
      signal?.addEventListener('abort', abort);
      try {
        this.#worker.postMessage({ id, method, args }, transfer);
      } catch (error) {
        call.settle(() => reject(wrong(`these arguments cannot be sent to the worker: ${error.message}`)));
      }
    });
  }

  async *#stream(method, image, given, inputIds) {
    const { signal, prompt, ...options } = given;
    const args = { options };
    if (inputIds != null) args.inputIds = wholeNumbers('inputIds', inputIds);
    if (method === 'caption' || image != null) args.image = await transferable(image);
    if (prompt != null) args.prompt = typeof prompt === 'string' ? wellFormed(prompt) : prompt;
    const pieces = [];
    let wake = () => {};
    let done = false;
    // Ends the call where the caller stops to listen.
    const stop = new AbortController();
    const pass = () => stop.abort(signal.reason);
    if (signal?.aborted) pass();
    signal?.addEventListener('abort', pass);
    const call = this.#call(method, args, {
      signal: stop.signal,
      transfer: bitmaps(args.image ? [args.image] : []),
      onPiece: (piece) => {
        pieces.push(piece);
        wake();
      },
    }).finally(() => {
      done = true;
      wake();
    });
    call.catch(() => {});
    try {
      for (;;) {
        while (pieces.length > 0) yield pieces.shift();
        if (done) return await call;
        await new Promise((resolve) => (wake = resolve));
      }
    } finally {
      signal?.removeEventListener('abort', pass);
      stop.abort();
    }
  }
}

/** Calls a function of the caller's, where there is one: its own errors are not the model's. */
function heard(listener, what) {
  try {
    listener?.(what);
  } catch (error) {
    place.report(error);
  }
}

async function whole(stream) {
  for (;;) {
    const { done, value } = await stream.next();
    if (done) return value.text;
  }
}
