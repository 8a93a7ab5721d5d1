// The page that `qllama search --html` writes, in a browser as a person has it.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { open, pictures, root } from './browser.mjs';

const program = process.env.QLLAMA ?? join(root, 'target/debug/qllama');
const folder = mkdtempSync(join(tmpdir(), 'qllama-search-'));
after(() => rmSync(folder, { recursive: true }));

const run = (...args) => execFileSync(program, args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
/** A name that would become a part of a page where it is not escaped. */
const evil = `<img src=x onerror="document.title='caught'">'&amp;.png`.replaceAll('/', '');

test('a page shows what was found, and loads nothing', async () => {
  mkdirSync(join(folder, 'p'));
  for (const [from, to] of [['noto-cat.png', 'cat.png'], ['noto-dog.png', 'dog.png'], ['noto-pizza.png', evil], ['noto-rocket.png', 'gone.png']]) {
    copyFileSync(join(pictures, from), join(folder, 'p', to));
  }
  run('index', 'p');
  rmSync(join(folder, 'p', 'gone.png'));
  run('search', 'p', '<b>cat</b> & "dog"', '--html', 'text.html');
  run('search', 'p', '--image', 'p/cat.png', '--html', 'like.html', '--top', '2');
  const browser = await open();
  try {
    for (const [file, title, shown, broken] of [['text.html', '<b>cat</b> & "dog"', 3, 1], ['like.html', 'Like p/cat.png', 3, 0]]) {
      const page = await browser.context.newPage();
      const loaded = [];
      page.on('request', (request) => loaded.push(request.url().slice(0, 40)));
      page.on('pageerror', (error) => assert.fail(error.message));
      await page.goto(pathToFileURL(join(folder, file)).href);
      assert.equal(await page.title(), title);
      assert.equal(await page.locator('h1').textContent(), title);
      const sizes = await page.locator('img').evaluateAll((all) => Promise.all(all.map(async (img) => (await img.decode(), img.naturalWidth * img.clientWidth))));
      assert.equal(sizes.length, shown);
      assert.ok(sizes.every((size) => size > 0), `${sizes}`);
      assert.equal(await page.locator('.picture span').count(), broken);
      assert.ok(loaded.slice(1).every((url) => url.startsWith('data:')), `${loaded}`);
      if (process.env.SCREENSHOTS) await page.screenshot({ path: join(process.env.SCREENSHOTS, `${file}.png`) });
      if (file === 'text.html') {
        const captions = await page.locator('figcaption').allTextContents();
        assert.ok(captions.some((text) => text.endsWith(`p/${evil}`)), `${captions}`);
        const link = page.locator('figure', { hasText: 'onerror' }).locator('a');
        assert.deepEqual(readFileSync(new URL(await link.getAttribute('href'))), readFileSync(join(folder, 'p', evil)));
      } else {
        assert.match(await page.locator('figcaption').first().textContent(), /^1\.0000 p\/cat\.png$/);
      }
    }
  } finally {
    await browser.close();
  }
});
