// Uses the whole API; only compiled.

import { QLlama, QLlamaError, PastKeyValues, type AttentionMap, type ForwardOutputs, type Generation, type KeyValue, type KvCacheType, type Mode, type ModelInfo, type Recovered, type Sequence } from 'qllama';

export async function all(file: File, canvas: HTMLCanvasElement, image: HTMLImageElement, bitmap: ImageBitmap): Promise<void> {
  const { ok, reason }: { ok: boolean; reason?: string } = await QLlama.supported();
  if (!ok) throw new QLlamaError('E_ADAPTER', reason ?? '');
  const stop = new AbortController();
  const { signal } = stop;
  const model = await QLlama.load(new URL('model.gguf', location.href), {
    onProgress: ({ phase, bytes, total, secondsLeft }) => console.log(phase.length, bytes / total, secondsLeft ?? 0),
    signal,
    cache: 'none',
    memoryBudget: 1e9,
    kvCache: 'f16',
    recover: true,
    check: 'again',
  });
  const stopListening: () => void = model.on('recovered', ({ reason, adapter, seconds }: Recovered) => console.log(reason.trim(), adapter.trim(), seconds + 1));
  stopListening();
  const mode: Mode = 'itm';
  const kvCache: KvCacheType = 'f32';
  for await (const piece of model.caption(file, { prompt: 'a', numBeams: 2, maxNewTokens: 8, minNewTokens: 1, signal })) piece.trim();
  const text: string = await model.captionText(canvas);
  const table: number[][] = await model.match([image, bitmap, new ImageData(1, 1)], [text], { mode, signal });
  const vectors: Float32Array[] = [await model.embedImage(file, { mode: 'g' }), await model.embedText('a')];
  const stream = model.generate({ inputIds: [1, 2], image: file, doSample: true, temperature: 0.7, topK: 5, topP: 0.9, seed: 1, repetitionPenalty: 1.1, noRepeatNgramSize: 2, lengthPenalty: 1, earlyStopping: 'never', numReturnSequences: 2, eosTokenId: [2, 3], kvCache });
  const last = await stream.next();
  if (last.done) {
    const result: Generation = last.value;
    result.ids.map((id) => id + result.tokens);
    result.sequences.map(({ text, ids, score }: Sequence) => [text, ids.length, score]);
  } else last.value.trim();
  const rows = await model.visionHiddenStates(file);
  const first: ForwardOutputs = await model.forward({
    inputIds: { data: [1, 304], shape: [1, 2] },
    attentionMask: { data: new Int32Array([1, 1]), shape: [1, 2] },
    positionIds: { data: new BigInt64Array(2), shape: [1, 2] },
    visionHiddenStates: rows,
    labels: { data: [-100, 1], shape: [1, 2] },
    useZeroAttentionMask: true,
    outputAttentions: true,
    outputCrossAttentions: true,
    outputHiddenStates: true,
    outputLogits: true,
    outputLastHiddenState: true,
    useCache: true,
    repeatTime: 1,
  });
  const next = await model.forward({ inputsEmbeds: { data: new Float32Array(64), shape: [1, 1, 64] }, pastKeyValues: first.pastKeyValues });
  const logits: Float32Array | undefined = next.logits?.data;
  const past: PastKeyValues | undefined = first.pastKeyValues;
  const arrays: KeyValue[] = (await past?.toArrays()) ?? [];
  await model.forward({ inputIds: { data: [1], shape: [1, 1] }, pastKeyValues: arrays });
  console.log(past?.length, past instanceof PastKeyValues);
  past?.dispose();
  const map: AttentionMap = await model.attention(file, { layer: 0, signal });
  const info: ModelInfo = model.info;
  console.log(table, vectors, logits?.length, map.values[0], map.perToken.length, info.adapter, info.storageNote, first.loss);
  await model.dispose();
  await QLlama.clearCache();
  await model.captionText(new Uint8Array(8));
  await model.captionText(new ArrayBuffer(8));
  await (await QLlama.load('a', { cache: 'disk' })).captionText('cat.png');
  // @ts-expect-error
  new QLlama();
  // @ts-expect-error
  await QLlama.load('a', { cache: 'memory' });
  // @ts-expect-error
  await model.match([file], ['a'], { mode: 'x' });
  // @ts-expect-error
  await model.embedImage(file, { mode: 'itm' });
  // @ts-expect-error
  model.caption(file, { kvCache: 'f8' });
  // @ts-expect-error
  new PastKeyValues();
  // @ts-expect-error
  model.caption(5);
  // @ts-expect-error
  model.info = info;
}
