// QLlama in the browser: captions, matching and text on WebGPU. All work happens in a worker that owns the model.

/** An error with a stable `code`. */
export class QLlamaError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.name = 'QLlamaError';
    this.code = code;
  }
}

const NO_WEBGPU =
  'this browser has no WebGPU. Chrome and Edge have it from version 113 on (Android: 121), Safari from 26, Firefox from 141 on Windows and 145 on Macs with Apple chips';

const abortError = (signal) =>
  signal?.reason instanceof Error && signal.reason.name === 'AbortError' ? signal.reason : new DOMException('The call was aborted', 'AbortError');

const wrong = (message) => new QLlamaError('E_INPUT', message);

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
  /** Aborted with the worker's end. */
  #ended = new AbortController();
  /** The worker's, and of the lock that it holds. */
  #name;

  /** Use `QLlama.load`. */
  constructor(key) {
    if (key !== QLlama.#key) throw new TypeError('use QLlama.load(url)');
    this.#name = `qllama-${Date.now()}-${Math.random().toString(36).slice(2)}`;
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name: this.#name });
    this.#worker.onmessage = ({ data }) => this.#received(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#die('E_INTERNAL', `the worker could not run: ${event.message ?? 'its script did not load'}`);
    };
    this.#worker.onmessageerror = () => this.#die('E_INTERNAL', 'a message of the worker could not be read');
  }

  /** Whether models can run here: `{ ok, reason? }`. */
  static async supported() {
    if (typeof Worker === 'undefined' || typeof WebAssembly === 'undefined') {
      return { ok: false, reason: 'this browser has no WebAssembly or no workers' };
    }
    if (!globalThis.isSecureContext) {
      return { ok: false, reason: 'WebGPU needs a secure page: open it by https, or from localhost' };
    }
    if (!navigator.gpu) return { ok: false, reason: NO_WEBGPU };
    let adapter = null;
    try {
      adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' });
    } catch {
      // The same as none.
    }
    if (!adapter) {
      return { ok: false, reason: 'this browser has WebGPU, but offers no GPU adapter: the GPU may be blocked, or hardware acceleration turned off in the settings' };
    }
    const buffers = adapter.limits.maxStorageBuffersPerShaderStage;
    if (buffers < 8) return { ok: false, reason: `the GPU adapter allows ${buffers} storage buffers a shader, and 8 are needed` };
    return { ok: true };
  }

  /** Loads a model from the URL of its folder or GGUF file, absolute or relative to the page. */
  static async load(url, options = {}) {
    const { onProgress, signal, cache = 'opfs', memoryBudget } = options ?? {};
    if (typeof url !== 'string' && !(url instanceof URL)) throw wrong('url: expected the address of a model folder or of a .gguf file');
    if (cache !== 'opfs' && cache !== 'none') throw wrong('cache: expected "opfs" or "none"');
    if (memoryBudget !== undefined && !(Number.isFinite(memoryBudget) && memoryBudget > 0)) {
      throw wrong('memoryBudget: expected a number of bytes above 0');
    }
    let absolute;
    try {
      absolute = new URL(url, document.baseURI).href;
    } catch {
      throw wrong(`url: ${JSON.stringify(String(url).slice(0, 120))} is no address`);
    }
    if (!/^https?:/.test(absolute)) throw wrong('url: expected an address that begins with http: or https:');
    if (signal?.aborted) throw abortError(signal);
    // The worker's scripts come while the adapter is asked for.
    const model = new QLlama(QLlama.#key);
    try {
      const supported = await QLlama.supported();
      if (!supported.ok) throw new QLlamaError('E_ADAPTER', supported.reason);
      const loaded = await model.#call('load', { url: absolute, cache, memoryBudget }, { signal, onProgress });
      Object.assign(model.#info, { fromStorage: loaded.fromStorage, loadSeconds: loaded.seconds });
      return model;
    } catch (error) {
      await model.dispose();
      throw error;
    }
  }

  /** Deletes the models kept in this browser for this site. Models that are loaded stay so. */
  static async clearCache() {
    try {
      const root = await navigator.storage.getDirectory();
      await root.removeEntry('qllama', { recursive: true });
    } catch (error) {
      if (error.name !== 'NotFoundError') throw new QLlamaError('E_STORAGE', `the cache could not be cleared: ${error.message}`);
    }
  }

  /** What is loaded, what it runs on, and the memory it takes; renewed with each call. */
  get info() {
    return { ...this.#info };
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

  /** The decoder's forward pass, as in the published modules. */
  async forward(inputs, options = {}) {
    if (inputs === null || typeof inputs !== 'object') throw wrong('expected an object of inputs');
    const sent = {};
    for (const key of ['inputIds', 'attentionMask', 'positionIds', 'labels']) {
      if (inputs[key] != null) sent[key] = array(key, inputs[key], wholeNumbers);
    }
    for (const key of ['inputsEmbeds', 'queryEmbeds', 'visionHiddenStates']) {
      if (inputs[key] != null) sent[key] = array(key, inputs[key], floats);
    }
    if (inputs.pastKeyValues != null) sent.pastKeyValues = pastKeyValues(inputs.pastKeyValues);
    for (const key of ['useCache', 'useZeroAttentionMask', 'outputAttentions', 'outputCrossAttentions', 'outputHiddenStates', 'outputLogits', 'outputLastHiddenState']) {
      if (inputs[key] !== undefined) sent[key] = Boolean(inputs[key]);
    }
    if (inputs.repeatTime != null) sent.repeatTime = inputs.repeatTime;
    return this.#call('forward', { inputs: sent }, { signal: options?.signal });
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
    const { width, height, queries, values, layers } = map;
    const size = width * height;
    const perToken = Array.from({ length: queries }, (_, q) => values.slice(q * size, (q + 1) * size));
    const mean = new Float32Array(size);
    for (const token of perToken) token.forEach((value, i) => (mean[i] += value / queries));
    return { width, height, values: mean, perToken, layer: map.layer, layers };
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

  /** Learns of the worker's end by the lock that it holds while it lives. */
  #watch() {
    navigator.locks
      .request(this.#name, { signal: this.#ended.signal }, () => {
        this.#die('E_DEVICE_LOST', 'the worker ended; load the model again');
      })
      .catch(() => {});
  }

  #received(data) {
    if (data.alive) return this.#watch();
    if (data.fatal) return this.#die('E_INTERNAL', data.fatal);
    if (data.lost) return this.#die('E_DEVICE_LOST', data.lost);
    if (data.info) Object.assign(this.#info, data.info);
    if (data.error?.code === 'E_DEVICE_LOST') return this.#die('E_DEVICE_LOST', data.error.message);
    const call = this.#calls.get(data.id);
    if (!call) return;
    if (data.progress) {
      try {
        call.onProgress?.(data.progress);
      } catch (error) {
        // The caller's own error is not the model's.
        reportError(error);
      }
    } else if (data.piece !== undefined) {
      call.onPiece?.(data.piece);
    } else if (data.error) {
      const { code, message } = data.error;
      call.settle(() => call.reject(code === 'E_ABORTED' ? abortError(call.signal) : new QLlamaError(code, message)));
    } else {
      call.settle(() => call.resolve(data.value));
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
          signal?.removeEventListener('abort', abort);
          how();
        },
      };
      this.#calls.set(id, call);
      signal?.addEventListener('abort', abort);
      try {
        this.#worker.postMessage({ id, method, args }, transfer);
      } catch (error) {
        call.settle(() => reject(wrong(`these arguments cannot be sent to the worker: ${error.message}`)));
      }
    });
  }

  async *#stream(method, image, options, inputIds) {
    const { signal, ...rest } = options;
    const args = { options: numbersAndStrings(rest) };
    if (inputIds != null) args.options.inputIds = wholeNumbers('inputIds', inputIds);
    if (method === 'caption' || image != null) args.image = await transferable(image);
    if (typeof args.options.prompt === 'string') args.options.prompt = wellFormed(args.options.prompt);
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

async function whole(stream) {
  for (;;) {
    const { done, value } = await stream.next();
    if (done) return value.text;
  }
}

/** Lone surrogates become U+FFFD, as in files. */
function wellFormed(text) {
  return text.toWellFormed ? text.toWellFormed() : new TextDecoder().decode(new TextEncoder().encode(text));
}

const OPTIONS = [
  'prompt', 'numBeams', 'maxNewTokens', 'minNewTokens', 'doSample', 'temperature', 'topK', 'topP', 'seed',
  'repetitionPenalty', 'noRepeatNgramSize', 'lengthPenalty', 'earlyStopping',
];

function numbersAndStrings(options) {
  const out = {};
  for (const key of OPTIONS) {
    const value = options[key];
    if (value === undefined || value === null) continue;
    if (!['number', 'string', 'boolean'].includes(typeof value)) throw wrong(`${key}: expected a plain value`);
    if (typeof value === 'number' && !Number.isFinite(value)) throw wrong(`${key}: expected a finite number`);
    out[key] = value;
  }
  return out;
}

function floats(key, data) {
  if (data instanceof Float32Array) {
    if (data.buffer.detached) throw wrong(`${key}: its buffer is detached`);
    return data;
  }
  if (Array.isArray(data) || ArrayBuffer.isView(data)) return Float32Array.from(data, Number);
  throw wrong(`${key}: expected a Float32Array`);
}

function wholeNumbers(key, data) {
  if (data?.buffer?.detached) throw wrong(`${key}: its buffer is detached`);
  if (data instanceof BigInt64Array) return data;
  if (!Array.isArray(data) && !(ArrayBuffer.isView(data) && !(data instanceof DataView))) {
    throw wrong(`${key}: expected a list or a typed array of whole numbers`);
  }
  return BigInt64Array.from(data, (value) => {
    if (typeof value === 'bigint') return value;
    if (!Number.isSafeInteger(value)) throw wrong(`${key}: ${String(value)} is not a whole number`);
    return BigInt(value);
  });
}

function array(key, given, of) {
  if (!Array.isArray(given?.shape)) throw wrong(`${key}: expected { data, shape }`);
  return { data: of(key, given.data), shape: given.shape.map(Number) };
}

function pastKeyValues(layers) {
  if (!Array.isArray(layers)) throw wrong('pastKeyValues: expected what forward returned: a list of { key, value }');
  return layers.map((layer, i) => {
    const part = (key) => array(`pastKeyValues[${i}].${key}`, layer?.[key], floats);
    return { key: part('key'), value: part('value') };
  });
}

const is = (value, type) => typeof globalThis[type] === 'function' && value instanceof globalThis[type];

/** A picture in a form that can be sent. Blobs go as they are: the engine decodes them itself. */
async function transferable(image) {
  if (is(image, 'Blob')) return { blob: image };
  if (is(image, 'ImageData')) {
    if (image.data.buffer.detached) throw wrong('image: its buffer is detached');
    return { width: image.width, height: image.height, rgba: new Uint8Array(image.data) };
  }
  const drawable = ['ImageBitmap', 'HTMLImageElement', 'HTMLCanvasElement', 'OffscreenCanvas', 'HTMLVideoElement', 'VideoFrame'];
  if (drawable.some((type) => is(image, type))) {
    try {
      if (is(image, 'HTMLImageElement')) await image.decode();
      return { bitmap: await createImageBitmap(image, { premultiplyAlpha: 'none', colorSpaceConversion: 'none' }) };
    } catch (error) {
      throw new QLlamaError('E_IMAGE', `this picture cannot be read: ${error.message}`);
    }
  }
  throw wrong('image: expected a Blob, ImageBitmap, ImageData, image, canvas, video or VideoFrame');
}

const bitmaps = (images) => images.filter((image) => image.bitmap).map((image) => image.bitmap);
