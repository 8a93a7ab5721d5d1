// Models by their names on the Hugging Face hub, whose part this test plays.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { hubAddress } from '../hub.js';
import { apiPage, dist, open, pictures, root } from './browser.mjs';
import { serve } from './serve.mjs';

test('names become addresses, and what is none is refused', () => {
  const hub = 'https://huggingface.co';
  assert.equal(hubAddress('hf:org/name'), `${hub}/org/name/resolve/main/`);
  assert.equal(hubAddress('HF:org/n.a-me_1@v2'), `${hub}/org/n.a-me_1/resolve/v2/`);
  assert.equal(hubAddress('hf:org/name@refs/pr/1'), `${hub}/org/name/resolve/refs%2Fpr%2F1/`);
  assert.equal(hubAddress('hf:org/name/low/q4.gguf@0a1b', 'http://here:1/'), 'http://here:1/org/name/resolve/0a1b/low/q4.gguf');
  assert.equal(hubAddress('models/org/name'), null);
  assert.equal(hubAddress(new URL('https://a.b/c')), null);
  for (const name of ['hf:', 'hf:org', 'hf:../name', 'hf:org/..', 'hf:org/name@', 'hf:org/name@a@b', 'hf:org/name/file.bin', 'hf:org/na me', 'hf:/org/name', 'hf:org/name?x']) {
    assert.throws(() => hubAddress(name), { code: 'E_INPUT' }, name);
  }
});

test('a page loads a model by its name', async () => {
  const server = await serve({ '/': dist, '/pictures/': pictures });
  const browser = await open();
  const asked = [];
  try {
    await browser.context.route('https://huggingface.co/**', (route) => {
      const { pathname } = new URL(route.request().url());
      asked.push(pathname);
      const file = pathname.replace('/lab/emoji/resolve/v1/', '');
      const headers = { 'access-control-allow-origin': '*' };
      try {
        return route.fulfill({ headers, body: readFileSync(join(root, 'models/emoji-tiny-w4', file)) });
      } catch {
        return route.fulfill({ headers, status: 404 });
      }
    });
    const page = await apiPage(browser, server);
    assert.equal(await page.evaluate(async () => (await QLlama.load('hf:lab/emoji@v1')).captionText(catBlob)), 'cat');
    assert.ok(asked.length > 3 && asked.every((path) => path.startsWith('/lab/emoji/resolve/v1/')), `${asked}`);
    assert.match(await page.evaluate(() => fails(QLlama.load('hf:lab'))), /^E_INPUT: url: "hf:lab"/);
  } finally {
    await browser.close();
    server.close();
  }
});
