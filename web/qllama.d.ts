/**
 * A picture. A file's bytes (PNG, JPEG or WebP) are decoded by the engine itself, so that pixels are the same everywhere.
 * Outside of browsers a string or URL is the path of a file on disk.
 */
export type Picture = Blob | ArrayBuffer | ArrayBufferView | string | URL | ImageBitmap | ImageData | HTMLImageElement | HTMLCanvasElement | OffscreenCanvas | HTMLVideoElement | VideoFrame;

/** An error with a stable `code`, such as `E_HTTP`, `E_INPUT`, `E_IMAGE`, `E_STATE`, `E_ADAPTER` or `E_DEVICE_LOST`. */
export class QLlamaError extends Error {
  constructor(code: string, message: string);
  readonly code: string;
}

export interface Progress {
  phase: 'start' | 'download' | 'upload' | 'ready';
  bytes: number;
  /** 0 where it is not known. */
  total: number;
  /** Of this phase; null where it cannot be told. */
  secondsLeft: number | null;
}

export interface LoadOptions {
  onProgress?: (progress: Progress) => void;
  signal?: AbortSignal;
  /**
   * Whether a model that comes over the network is kept: in the browser, or outside of browsers in the user's cache folder.
   * Default `opfs` there, `disk` here.
   */
  cache?: 'opfs' | 'disk' | 'none';
  /** What a relative address is relative to. Default: the page's, or that of the worker's script. */
  baseUrl?: string | URL;
  /**
   * The most bytes of GPU memory that the model may take. Where not all fits, weights that only pictures need are read
   * again for every picture; a model that still does not fit is refused with `E_LIMIT`.
   */
  memoryBudget?: number;
  /** How keys and values are stored where a call does not tell. Default `f32`. */
  kvCache?: KvCacheType;
  /**
   * Whether the model goes on by itself where the GPU device is lost: it opens it again, loads the weights again from the
   * browser's storage, and runs the call again; pieces that were told are not told twice. After three losses in a row, the
   * call having got no further, it is rejected with `E_DEVICE_LOST`, and the next one tries anew. Default true; without,
   * all calls are rejected so, and the model is to be loaded again.
   */
  recover?: boolean;
  /**
   * Whether the GPU is checked before it is trusted: each kernel is compared with what it should compute, those of captions
   * while the model comes in, those of other tasks when they are first asked for. `on`, the default, tries what was not
   * tried yet on this adapter by this browser; `again` tries everything; `off` nothing. A kernel that is wrong is left out,
   * and another takes its place: `info.check` tells. Where there is none, the call is rejected with `E_ADAPTER`.
   */
  check?: 'on' | 'off' | 'again';
}

/** What the check of the GPU found. */
export interface CheckReport {
  /** Calls of kernels that were tried since the model is there; 0 where all was known. */
  tried: number;
  /** Kernels that compute wrongly, and what is wrong. */
  wrong: { kernel: string; fault: string }[];
  /** What is wrong, to be sent to whoever can mend it; null where nothing is. */
  text: string | null;
}

/** Told when a model goes on after its GPU device was lost. */
export interface Recovered {
  /** What the browser said. */
  reason: string;
  /** The adapter that it goes on with, as far as the browser names it. */
  adapter: string;
  /** How long it took to open the device and to load the weights. What the call had done takes its time again. */
  seconds: number;
}

/** How cached keys and values are stored: as they are, or rounded in half the memory. */
export type KvCacheType = 'f32' | 'f16';

/** How pictures and texts are compared: by embeddings of the vision encoder, or of query tokens too; or each pair by itself. */
export type Mode = 'c' | 'g' | 'itm';

/** Hugging Face's options, with its rules and its defaults but for `maxNewTokens` and the seed. */
export interface GenerationOptions {
  prompt?: string;
  /** Most new tokens of a sequence, the end id included. Default 32. */
  maxNewTokens?: number;
  minNewTokens?: number;
  /** From 1 to 16. */
  numBeams?: number;
  /** At most `numBeams`, or 256 with `doSample`. The stream tells the first sequence; its result has all in `sequences`. */
  numReturnSequences?: number;
  lengthPenalty?: number;
  earlyStopping?: boolean | 'never';
  repetitionPenalty?: number;
  noRepeatNgramSize?: number;
  /** The ids that end a sequence; the model's own by default. */
  eosTokenId?: number | number[];
  /** Draw tokens at random; `temperature`, `topK`, `topP` and `seed` need it. Not with beams. */
  doSample?: boolean;
  temperature?: number;
  /** Default 50; 0 is all. */
  topK?: number;
  topP?: number;
  /** The same seed draws the same numbers on every adapter. */
  seed?: number | bigint;
  /** What the model was loaded with by default. */
  kvCache?: KvCacheType;
  signal?: AbortSignal;
}

export interface GenerateOptions extends GenerationOptions {
  /** Token ids in place of `prompt`. */
  inputIds?: ArrayLike<number> | BigInt64Array;
  image?: Picture;
}

export interface Sequence {
  text: string;
  /** The new ids, without the end id. */
  ids: number[];
  /** Beam search's score; 0 otherwise. */
  score: number;
}

/** What a stream returns after its last piece: the first sequence, which is the best one of beam search, and all of them. */
export interface Generation extends Sequence {
  /** New tokens of the first sequence, the end id included. */
  tokens: number;
  sequences: Sequence[];
  firstTokenSeconds: number;
  tokensPerSecond: number | null;
}

/** Row-major. */
export interface Tensor<T = Float32Array> {
  data: T;
  shape: number[];
}

/** Whole numbers: ids, masks and positions. */
export type Integers = Tensor<number[] | Int32Array | Uint32Array | Uint8Array | BigInt64Array>;

/** A layer's keys (after rotation) and values: [batch, key-value heads, rows, head width] each. */
export interface KeyValue {
  key: Tensor;
  value: Tensor;
}

/**
 * The cache of a call of `forward` with `useCache`: on the GPU, until `dispose`, the model's end, or the handle's own. A call
 * that is given it and has `useCache` extends it and returns another handle: this one is used up then, and refused with
 * `E_STATE`. It stays as it was after a call without `useCache`, and one that failed or was aborted.
 */
export class PastKeyValues {
  private constructor();
  /** Rows in the cache. */
  readonly length: number;
  /** One a layer. */
  toArrays(): Promise<KeyValue[]>;
  /** Frees the cache. */
  dispose(): void;
}

export interface ForwardInputs {
  /** [batch, rows]; this or `inputsEmbeds`. */
  inputIds?: Integers;
  /** [batch, rows, hiddenSize] */
  inputsEmbeds?: Tensor;
  /** [batch, queries, hiddenSize]: rows before those of `inputIds`. */
  queryEmbeds?: Tensor;
  /** [batch, rows of `pastKeyValues` and of this call], 1 where a key may be seen. */
  attentionMask?: Integers;
  positionIds?: Integers;
  /** [images, vision rows, vision width] */
  visionHiddenStates?: Tensor;
  repeatTime?: number;
  /** [batch, rows]; -100 is ignored. */
  labels?: Integers;
  /** What an earlier call with `useCache` returned, or arrays, one a layer. This call's rows stand behind its rows. */
  pastKeyValues?: PastKeyValues | KeyValue[];
  /** Return `pastKeyValues`. */
  useCache?: boolean;
  useZeroAttentionMask?: boolean;
  outputAttentions?: boolean;
  outputCrossAttentions?: boolean;
  outputHiddenStates?: boolean;
  /** Default true. */
  outputLogits?: boolean;
  outputLastHiddenState?: boolean;
}

export interface ForwardOutputs {
  logits?: Tensor;
  loss?: number;
  lastHiddenState?: Tensor;
  hiddenStates?: Tensor[];
  attentions?: Tensor[];
  crossAttentions?: Tensor[];
  pastKeyValues?: PastKeyValues;
}

export interface AttentionMap {
  width: number;
  height: number;
  /** The mean over query tokens, [height, width]. */
  values: Float32Array;
  /** The same for each query token. */
  perToken: Float32Array[];
  /** Counted over the layers that look at the picture. */
  layer: number;
  layers: number;
}

export interface ModelInfo {
  name: string;
  adapter: string;
  backend: string;
  software: boolean;
  maxBindingBytes: number;
  maxBufferBytes: number;
  gpuBytes: number;
  gpuBytesPeak: number;
  wasmBytes: number;
  dispatchesPerToken: number;
  vision: boolean;
  match: boolean;
  imageSize: number;
  layers: number;
  crossAttentionLayers: number;
  hiddenSize: number;
  vocabSize: number;
  queryTokens: number;
  maxPositions: number;
  check: CheckReport;
  /** Whether files came from the browser's storage. */
  fromStorage: boolean;
  loadSeconds: number;
  /** Bytes of the model that came over the network. */
  networkBytes: number;
  /** Why the model is not kept, where that is so. */
  storageNote: string | null;
}

export class QLlama {
  private constructor();
  /** Whether models can run here. This asks the browser for an adapter, and `load` does so by itself. */
  static supported(): Promise<{ ok: boolean; reason?: string }>;
  /**
   * `url` is a folder, or a `.gguf` file of the LLaMA family, absolute or relative to the page; outside of browsers an address
   * or a path on disk. `hf:org/name`, `hf:org/name@revision` and `hf:org/name/file.gguf` are names on the Hugging Face hub.
   */
  static load(url: string | URL, options?: LoadOptions): Promise<QLlama>;
  /** Deletes the models kept in this browser for this site, or in this user's cache folder. */
  static clearCache(): Promise<void>;
  readonly info: ModelInfo;
  /** Has `listener` hear of each recovery from a lost GPU device; returns a function that ends that. */
  on(event: 'recovered', listener: (recovered: Recovered) => void): () => void;
  caption(image: Picture, options?: GenerationOptions): AsyncGenerator<string, Generation, void>;
  captionText(image: Picture, options?: GenerationOptions): Promise<string>;
  generate(options: GenerateOptions): AsyncGenerator<string, Generation, void>;
  /** Pictures by texts; each row sums to 1 (`itm`: each pair's own probability). */
  match(images: Picture[], texts: string[], options?: { mode?: Mode; signal?: AbortSignal }): Promise<number[][]>;
  embedImage(image: Picture, options?: { mode?: Exclude<Mode, 'itm'>; signal?: AbortSignal }): Promise<Float32Array>;
  embedText(text: string, options?: { signal?: AbortSignal }): Promise<Float32Array>;
  forward(inputs: ForwardInputs, options?: { signal?: AbortSignal }): Promise<ForwardOutputs>;
  visionHiddenStates(image: Picture, options?: { signal?: AbortSignal }): Promise<Tensor>;
  /**
   * `layer` counts the layers that look at the picture; the last one by default. A `prompt` changes nothing: it would
   * stand behind the query tokens, which do not see it.
   */
  attention(image: Picture, options?: { layer?: number; prompt?: string; signal?: AbortSignal }): Promise<AttentionMap>;
  dispose(): Promise<void>;
}
