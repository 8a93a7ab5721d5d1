// The demo page, as a person uses it.

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { dist, here, open, pictures } from './browser.mjs';
import { writeGguf } from './gguf.mjs';
import { serve } from './serve.mjs';

const out = join(here, 'out');
mkdirSync(out, { recursive: true });
const cat = readFileSync(join(pictures, 'noto-cat.png'));

const folders = { '/': dist, '/text/': out };
let server;
let browser;
let page;
const errors = [];

before(async () => {
  writeGguf(join(out, 'small.gguf'));
  server = await serve(folders);
  // A camera that shows a moving test picture.
  browser = await open({ args: ['--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'] });
  page = await browser.context.newPage();
  page.on('pageerror', (error) => errors.push(error.message));
});

after(async () => {
  await browser?.close();
  server?.close();
});

/** A file on its way, by drop or paste. */
function transfer(bytes, name, type) {
  return page.evaluateHandle(
    ({ base64, name, type }) => {
      const transfer = new DataTransfer();
      const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
      transfer.items.add(new File([bytes], name, { type }));
      return transfer;
    },
    { base64: bytes.toString('base64'), name, type },
  );
}

async function drop(bytes, name, type) {
  await page.dispatchEvent('#drop', 'drop', { dataTransfer: await transfer(bytes, name, type) });
}

/** Gives the page a picture and waits for its caption. */
async function captioned(how) {
  await page.evaluate(() => (document.getElementById('speed').textContent = ''));
  await how();
  await idle();
  return caption();
}

const read = (file) => readFileSync(join(pictures, file));

const idle = () => page.waitForFunction(() => document.getElementById('stop').disabled && document.getElementById('speed').textContent !== '', null, { timeout: 60000 });
const caption = () => page.textContent('#caption');
const isReady = () => page.waitForFunction(() => / is ready/.test(document.getElementById('status').textContent), null, { timeout: 60000 });

/** Seconds until the caption of the cat stands there, from opening the page and dropping the picture at once. */
async function timed(opening) {
  const start = performance.now();
  await opening();
  await drop(cat, 'cat.png', 'image/png');
  await page.waitForFunction(() => document.getElementById('caption').textContent === 'cat', null, { timeout: 60000, polling: 20 });
  return (performance.now() - start) / 1000;
}

test('a first visit: drop a picture, read what is in it', async () => {
  const seconds = await timed(() => page.goto(server.url));
  console.log(`first visit: caption after ${seconds.toFixed(2)} s`);
  await idle();
  assert.equal(await page.getAttribute('#preview', 'alt'), 'Your picture, captioned: cat');
  assert.match(await page.textContent('#facts'), /over the network/);
});

test('texts are ranked', async () => {
  await page.click('#rank');
  await page.waitForSelector('#ranking li', { timeout: 60000 });
  assert.match(await page.textContent('#ranking li:first-child'), /^cat9\d\.\d %$/);
  assert.equal(await page.locator('#ranking li').count(), 5);
});

test('a heat map shows where the query tokens look, layer by layer', async () => {
  await page.check('#heat-on');
  await page.waitForSelector('#heat:not([hidden])', { timeout: 60000 });
  assert.equal(await page.locator('#layer option').count(), 3);
  const pixels = () => page.evaluate(() => document.getElementById('heat').toDataURL());
  const last = await pixels();
  await page.selectOption('#layer', '0');
  await page.waitForFunction((last) => document.getElementById('heat').toDataURL() !== last, last, { timeout: 60000 });
});

test('the gallery is searched by text', async () => {
  await page.fill('#query', 'rocket');
  await page.press('#query', 'Enter');
  await page.waitForFunction(() => /^Best first/.test(document.getElementById('found').textContent), null, { timeout: 90000 });
  assert.equal(await page.getAttribute('#gallery li:first-child img', 'alt'), 'rocket');
});

test('pictures of the page: light, dark, and as wide as a phone', async () => {
  await page.screenshot({ path: join(out, 'light.png'), fullPage: true });
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 3);
  assert.ok((await background()) > 200);
  await page.emulateMedia({ colorScheme: 'dark' });
  assert.ok((await background()) < 60);
  await page.screenshot({ path: join(out, 'dark.png'), fullPage: true });
  await page.emulateMedia({ colorScheme: 'light' });
  await page.setViewportSize({ width: 360, height: 740 });
  await page.screenshot({ path: join(out, 'phone.png'), fullPage: true });
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(overflow <= 0, `the page is ${overflow} px wider than a phone`);
  await page.setViewportSize({ width: 1200, height: 900 });
});

test('a drawing is captioned', async () => {
  await page.uncheck('#heat-on');
  await page.click('#draw');
  const box = await page.locator('#pad').boundingBox();
  await page.mouse.move(box.x + 60, box.y + 60);
  await page.mouse.down();
  for (let i = 0; i <= 20; i++) {
    await page.mouse.move(box.x + 130 + 70 * Math.cos(i / 3.2), box.y + 130 + 70 * Math.sin(i / 3.2));
  }
  await page.mouse.up();
  await page.screenshot({ path: join(out, 'drawing.png') });
  await page.evaluate(() => (document.getElementById('speed').textContent = ''));
  await page.click('#use-drawing');
  await idle();
  assert.match(await caption(), /^[a-z' -]+$/);
  await page.screenshot({ path: join(out, 'drawn.png') });
});

test('a picture is pasted, and one is chosen as a file', async () => {
  const pasted = await captioned(async () => {
    const data = await transfer(read('noto-rocket.png'), 'image.png', 'image/png');
    await page.evaluate((clipboardData) => dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true })), data);
  });
  assert.equal(pasted, 'rocket');
  const chooser = page.waitForEvent('filechooser');
  await page.click('#choose');
  assert.equal(await captioned(async () => (await chooser).setFiles(join(pictures, 'noto-pizza.png'))), 'pizza');
});

test('a picture is taken by the camera, which is switched off afterwards', async () => {
  await page.click('#camera');
  await page.waitForFunction(() => document.getElementById('video').videoWidth > 0, null, { timeout: 30000 });
  await page.screenshot({ path: join(out, 'camera.png') });
  await page.evaluate(() => (globalThis.track = document.getElementById('video').srcObject.getTracks()[0]));
  assert.match(await captioned(() => page.click('#shoot')), /^[a-z' -]+$/);
  const shown = await page.evaluate(() => ({ width: document.getElementById('preview').naturalWidth, track: track.readyState, open: document.getElementById('shooting').open }));
  assert.deepEqual({ ...shown, width: shown.width > 64 }, { width: true, track: 'ended', open: false });
});

test('where there is no camera, the page says so', async () => {
  await page.evaluate(() => {
    navigator.mediaDevices.getUserMedia = async () => {
      throw new DOMException('Requested device not found', 'NotFoundError');
    };
  });
  await page.click('#camera');
  await page.waitForFunction(() => /camera cannot be used/.test(document.getElementById('status').textContent));
});

test('the whole page works by keyboard', async () => {
  await page.focus('#draw');
  await page.keyboard.press('Enter');
  await page.focus('#pad');
  const before = await page.evaluate(() => document.getElementById('pad').toDataURL());
  for (const key of [' ', 'ArrowRight', 'ArrowDown', 'ArrowRight', ' ']) await page.keyboard.press(key);
  assert.notEqual(await page.evaluate(() => document.getElementById('pad').toDataURL()), before);
  await page.keyboard.press('Escape');
  // From one control to the next, all are reached in the order of the page.
  await page.focus('#choose');
  const reached = [];
  for (let i = 0; i < 12; i++) {
    reached.push(await page.evaluate(() => document.activeElement.id || document.activeElement.tagName));
    await page.keyboard.press('Tab');
  }
  assert.deepEqual(reached.slice(0, 8), ['choose', 'camera', 'draw', 'heat-on', 'layer', 'texts', 'mode', 'rank']);
  await page.focus('#rank');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.querySelectorAll('#ranking li').length === 5, null, { timeout: 60000 });
  await page.focus('#gallery li:first-child button');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.getElementById('caption').textContent === 'rocket', null, { timeout: 60000 });
  const unnamed = await page.evaluate(() =>
    [...document.querySelectorAll('button, input:not([hidden]), select, textarea')].filter(
      (e) => !(e.textContent.trim() || e.labels?.length || e.getAttribute('aria-label') || e.querySelector('img[alt]')),
    ).map((e) => e.id),
  );
  assert.deepEqual(unnamed, []);
});

test('a file that is no picture is refused, and the next one works', async () => {
  await drop(Buffer.from('not a picture'), 'text.png', 'image/png');
  await page.waitForFunction(() => /E_IMAGE/.test(document.getElementById('status').textContent), null, { timeout: 30000 });
  await drop(cat, 'cat.png', 'image/png');
  await page.waitForFunction(() => document.getElementById('caption').textContent === 'cat', null, { timeout: 60000 });
});

test('a second visit takes no weights from the network', async () => {
  server.sent.splice(0);
  const seconds = await timed(() => page.reload());
  console.log(`second visit: caption after ${seconds.toFixed(2)} s`);
  await idle();
  assert.match(await page.textContent('#facts'), /from this browser’s storage, 0 kB transferred/);
  const weights = server.sent.filter((r) => r.path.endsWith('.safetensors') && r.bytes > 0);
  assert.deepEqual(weights, []);
});

test('a third visit works without a network', async () => {
  await page.waitForFunction(() => navigator.serviceWorker.controller !== null);
  server.close();
  await browser.context.setOffline(true);
  await timed(() => page.reload());
  await browser.context.setOffline(false);
  server = await serve(folders, Number(new URL(server.url).port));
});

test('the cached model can be cleared', async () => {
  await page.reload();
  await isReady();
  await page.click('#clear');
  await page.waitForFunction(() => /^Cleared/.test(document.getElementById('cleared').textContent));
  await page.reload();
  await isReady();
  assert.match(await page.textContent('#facts'), /over the network/);
});

test('a text model is told from one that sees', async () => {
  await page.fill('#url', 'text/small.gguf');
  await page.press('#url', 'Enter');
  await page.waitForFunction(() => /it is a text model/.test(document.getElementById('status').textContent), null, { timeout: 60000 });
  assert.deepEqual([await page.isDisabled('#rank'), await page.isDisabled('#find')], [true, true]);
});

test('without WebGPU, the page says why, and which browsers have it', async () => {
  const reasons = { true: 'This browser has no WebGPU.', false: 'WebGPU needs a secure page: open it by https, or from localhost.' };
  for (const [secure, reason] of Object.entries(reasons)) {
    const other = await browser.context.newPage();
    await other.addInitScript((secure) => {
      Object.defineProperty(Navigator.prototype, 'gpu', { get: () => undefined });
      Object.defineProperty(globalThis, 'isSecureContext', { get: () => secure });
    }, secure === 'true');
    await other.goto(server.url);
    await other.waitForSelector('#missing:not([hidden])');
    assert.equal(await other.textContent('#missing-reason'), reason);
    assert.match(await other.textContent('#missing'), /Safari 26/);
    if (secure === 'true') await other.screenshot({ path: join(out, 'missing.png') });
    await other.close();
  }
});

test('nothing went wrong on the page meanwhile', () => assert.deepEqual(errors, []));
