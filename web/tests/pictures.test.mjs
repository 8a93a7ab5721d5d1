// Pictures that are broken, large, or of another site.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { apiTests } from './api.mjs';
import { pictures, root } from './browser.mjs';
import { serve } from './serve.mjs';

const api = apiTests({ withModel: true });
const { run } = api;

/** What a caption of a file's bytes is, or fails with. */
const caption = (bytes) =>
  run(async (base64) => {
    const blob = await (await fetch(`data:application/octet-stream;base64,${base64}`)).blob();
    return fails(async () => {
      throw { code: 'caption', message: await model.captionText(blob, { maxNewTokens: 4 }) };
    });
  }, bytes.toString('base64'));

const image = (file) => readFileSync(join(root, 'tests/data/images', file));

test('a picture whose decoder stops is refused, and the model goes on', async () => {
  assert.match(await caption(image('broken-animated.webp')), /^E_IMAGE: .*decoder stopped/);
  assert.equal(await caption(readFileSync(join(pictures, 'noto-cat.png'))), 'caption: cat');
  assert.match(await caption(image('broken-animated.webp').subarray(0, 100)), /^E_IMAGE: /);
  assert.match(await caption(Buffer.from('RIFF')), /^E_IMAGE: /);
  assert.match(await caption(Buffer.alloc(0)), /^E_IMAGE: .*empty/);
});

test('all kinds of pictures are read', async () => {
  const folder = join(root, 'tests/fuzz/seeds/pictures');
  for (const file of readdirSync(folder)) assert.match(await caption(readFileSync(join(folder, file))), /^caption: /, file);
});

test('large pictures leave the memory of the model as it was', async () => {
  const before = await run(() => model.info.wasmBytes);
  for (let i = 0; i < 4; i++) assert.match(await caption(image('large.png')), /^caption: /);
  const canvas = await run(async () => {
    const canvas = new OffscreenCanvas(6000, 6000);
    canvas.getContext('2d').fillRect(0, 0, 10, 10);
    await model.captionText(canvas);
    return model.info.wasmBytes;
  });
  console.log(`WebAssembly memory: ${before} bytes before, ${canvas} after`);
  assert.ok(canvas - before < 2 << 20, `${before} bytes before, ${canvas} after`);
});

test('a picture of another site that does not allow it is told of, with what helps', async () => {
  let allow = false;
  const other = await serve({ '/': pictures }, 0, (_, __, response) => {
    if (allow) response.setHeader('access-control-allow-origin', '*');
    return false;
  });
  const captioned = (crossOrigin) =>
    run(
      async ({ url, crossOrigin }) => {
        const image = new Image();
        image.crossOrigin = crossOrigin;
        image.src = url;
        await image.decode();
        const canvas = document.createElement('canvas');
        canvas.width = canvas.height = 64;
        canvas.getContext('2d').drawImage(image, 0, 0);
        const found = [];
        for (const picture of [image, canvas]) found.push(await fails(async () => { throw { code: 'caption', message: await model.captionText(picture) }; }));
        return found;
      },
      { url: `${other.url}noto-cat.png?${crossOrigin}`, crossOrigin },
    );
  for (const refused of await captioned(null)) assert.match(refused, /^E_IMAGE: .*another site.*CORS.*crossorigin/);
  allow = true;
  assert.deepEqual(await captioned('anonymous'), ['caption: cat', 'caption: cat']);
  other.close();
});
