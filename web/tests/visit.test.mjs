// A first visit to the page from a server with a strict Content-Security-Policy, and a second one without a network.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { dist, open, root } from './browser.mjs';
import { serve } from './serve.mjs';

/** As web/README.md has it. */
const POLICY = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'";

let server;
let browser;
let page;
/** What the browser complains of. */
const complaints = [];

before(async () => {
  server = await serve({ '/': dist }, 0, (_, __, response) => {
    response.setHeader('content-security-policy', POLICY);
    return false;
  });
  browser = await open();
  page = await browser.context.newPage();
  page.on('console', (message) => ['warning', 'error'].includes(message.type()) && complaints.push(message.text()));
  page.on('pageerror', (error) => complaints.push(error.message));
});

after(async () => {
  await browser?.close();
  server?.close();
});

const ready = () => page.waitForFunction(() => / is ready/.test(document.getElementById('status').textContent), null, { timeout: 60000 });

async function pick(name) {
  await page.click(`#gallery button:has(img[alt="${name}"])`);
  await page.waitForFunction((name) => document.getElementById('caption').textContent === name, name, { timeout: 60000 });
}

/** How many colours of the preview can be told apart. */
const colours = () =>
  page.evaluate(() => {
    const canvas = document.getElementById('preview');
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(data.buffer)).size;
  });

test('the policy is the one that the README states', () => {
  assert.ok(readFileSync(join(root, 'web/README.md'), 'utf8').includes(POLICY));
});

test('under a strict policy all of the page works', async () => {
  await page.goto(server.url);
  await ready();
  await pick('dog');
  assert.ok((await colours()) > 10, 'the preview is empty');
  await page.check('#heat-on');
  await page.waitForSelector('#heat:not([hidden])', { timeout: 60000 });
  await page.fill('#query', 'penguin');
  await page.press('#query', 'Enter');
  await page.waitForFunction(() => /^Best: penguin/.test(document.getElementById('found').textContent), null, { timeout: 90000 });
  await page.click('#rank');
  await page.waitForFunction(() => document.querySelectorAll('#ranking li.done').length === 5, null, { timeout: 60000 });
});

test('the engine comes in once, early, and what is preloaded is used', async () => {
  await page.evaluate(() => navigator.serviceWorker.ready);
  // Chromium tells of what was preloaded in vain some seconds after the page was loaded.
  await page.waitForTimeout(3000);
  const engine = server.sent.filter(({ path }) => path.endsWith('.wasm'));
  assert.equal(engine.filter(({ bytes }) => bytes > 0).length, 1, JSON.stringify(engine));
  const before = (path) => server.sent.findIndex((request) => request.path.endsWith(path));
  assert.ok(before('.wasm') < before('worker.js'), 'the engine was asked for after the worker');
  assert.deepEqual(complaints, []);
});

test('without a network, the gallery is there, too', async () => {
  await page.waitForFunction(() => navigator.serviceWorker.controller !== null);
  server.close();
  await browser.context.setOffline(true);
  await page.reload();
  await ready();
  const broken = await page.evaluate(async () => {
    const images = [...document.querySelectorAll('#gallery img')];
    await Promise.all(images.map((image) => image.decode().catch(() => {})));
    return images.filter((image) => image.naturalWidth === 0).length + (images.length === 18 ? 0 : 100);
  });
  assert.equal(broken, 0);
  await pick('volcano');
  assert.ok((await colours()) > 10);
});

test('a server answers what did not change with 304', async () => {
  const other = await serve({ '/': dist });
  const first = await fetch(`${other.url}qllama.js`);
  const etag = first.headers.get('etag');
  const again = await fetch(`${other.url}qllama.js`, { headers: { 'if-none-match': etag }, cache: 'no-store' });
  assert.deepEqual([first.status, again.status, (await again.text()).length], [200, 304, 0]);
  assert.equal((await fetch(`${other.url}qllama.js`, { headers: { 'if-none-match': '"other"' } })).status, 200);
  other.close();
});
