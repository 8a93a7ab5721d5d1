// Firefox beside Chromium: its own WebGPU (wgpu), on this machine's first Vulkan driver.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { launch } from 'puppeteer-core';
import { dist, pictures, root } from './browser.mjs';
import { serve } from './serve.mjs';

const expected = JSON.parse(readFileSync(join(root, 'models/emoji-tiny-w4/expected.json'), 'utf8'));
let server;

before(async () => {
  server = await serve({ '/': dist, '/pictures/': pictures }, 0, (path, request, response) => {
    if (path !== '/blank.html') return false;
    response.setHeader('content-type', 'text/html').end('<!doctype html><title>blank</title>');
    return true;
  });
});

after(() => server?.close());

/** Runs something on an empty page of a new Firefox. */
async function inFirefox(extraPrefsFirefox, what) {
  const browser = await launch({ browser: 'firefox', executablePath: process.env.FIREFOX, headless: true, extraPrefsFirefox });
  try {
    const page = await browser.newPage();
    await page.goto(`${server.url}blank.html`);
    return await what(page);
  } finally {
    await browser.close();
  }
}

test('captions and a match table are those of the published modules', async () => {
  // On Linux it is to be turned on, and software adapters are on a list of those not to use.
  const preferences = { 'dom.webgpu.enabled': true, 'gfx.webgpu.ignore-blocklist': true };
  await inFirefox(preferences, async (page) => {
    const some = expected.pictures.filter((_, i) => i % 100 === 0);
    const { files, texts, probabilities } = expected.match;
    const found = await page.evaluate(
      async ({ some, files, texts }) => {
        const { QLlama } = await import('/qllama.js');
        const blob = async (file) => (await fetch(`/pictures/${file}`)).blob();
        const model = await QLlama.load('/models/emoji-tiny/');
        const captions = [];
        for (const { file } of some) captions.push(await model.captionText(await blob(file), { maxNewTokens: 20 }));
        const beams = await model.captionText(await blob(some[0].file), { numBeams: 5, maxNewTokens: 20 });
        const table = await model.match(await Promise.all(files.map(blob)), texts, { mode: 'c' });
        await model.dispose();
        return { captions, beams, table };
      },
      { some, files: files.slice(0, 2), texts },
    );
    assert.deepEqual(found.captions, some.map(({ caption }) => caption));
    assert.equal(found.beams, some[0].caption_beam5);
    found.table.forEach((row, i) => row.forEach((p, j) => assert.ok(Math.abs(p - probabilities.C[i][j]) < 1e-3, `${files[i]} ${texts[j]}: ${p}`)));
  });
});

test('without WebGPU it says how to turn that on', async () => {
  const { ok, reason } = await inFirefox({ 'dom.webgpu.enabled': false }, (page) => page.evaluate(async () => (await import('/qllama.js')).QLlama.supported()));
  assert.equal(ok, false);
  assert.match(reason, /Firefox on Linux .*dom\.webgpu\.enabled/);
});
