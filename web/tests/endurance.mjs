// 200 captions in a row, and 20 rounds of loading and disposing: memory stays at the same level. `node endurance.mjs`

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { dist, open, pictures } from './browser.mjs';
import { serve } from './serve.mjs';

const server = await serve({ '/': dist });
const browser = await open();
try {
  const page = await browser.context.newPage();
  await page.route('**/blank.html', (route) => route.fulfill({ contentType: 'text/html', body: '<!doctype html>' }));
  await page.goto(`${server.url}blank.html`);
  const cat = readFileSync(join(pictures, 'noto-cat.png')).toString('base64');
  const found = await page.evaluate(async (cat) => {
    const { QLlama } = await import('./qllama.js');
    const blob = await (await fetch(`data:image/png;base64,${cat}`)).blob();
    const level = ({ gpuBytes, wasmBytes }) => `${gpuBytes} ${wasmBytes}`;
    const model = await QLlama.load('models/emoji-tiny/');
    await model.captionText(blob);
    const captions = [level(model.info)];
    for (let i = 0; i < 200; i++) {
      if ((await model.captionText(blob)) !== 'cat') throw new Error(`caption ${i} is another one`);
      captions.push(level(model.info));
    }
    await model.dispose();
    const rounds = [];
    for (let i = 0; i < 20; i++) {
      const one = await QLlama.load('models/emoji-tiny/');
      rounds.push(level(one.info));
      await one.dispose();
    }
    return { captions: [...new Set(captions)], rounds: [...new Set(rounds)] };
  }, cat);
  console.log('levels (GPU bytes, WebAssembly bytes) over 200 captions:', found.captions, 'over 20 rounds:', found.rounds);
  assert.equal(found.captions.length, 1);
  assert.equal(found.rounds.length, 1);
} finally {
  await browser.close();
  server.close();
}
