// The check of the GPU: what is tried and when, what is kept of it, and what becomes of kernels that a browser gets wrong.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { apiTests } from './api.mjs';

const api = apiTests();
const { run } = api;

/** A caption of the cat and what the check found. */
const caption = (options) =>
  run(async (options) => {
    const model = await QLlama.load(MODEL, options);
    const { check, loadSeconds } = model.info;
    const text = await model.captionText(catBlob);
    await model.dispose();
    return { text, check, loadSeconds };
  }, options);

/** Runs something where the browser leaves out the work of a kernel. */
async function without(kernel, what) {
  await run((kernel) => {
    globalThis.whole = before(`
      const { createShaderModule } = GPUDevice.prototype;
      GPUDevice.prototype.createShaderModule = function (descriptor) {
        let { code } = descriptor;
        if (descriptor.label === ${JSON.stringify(kernel)}) {
          const body = code.indexOf('{', code.indexOf('fn main('));
          code = code.slice(0, body + 1) + ' if true { return; }' + code.slice(body + 1);
        }
        return createShaderModule.call(this, { ...descriptor, code });
      };`);
  }, kernel);
  try {
    return await what();
  } finally {
    await run(() => whole());
  }
}

test('the first load checks, the second has it, and each may be told otherwise', async () => {
  const first = await caption();
  assert.deepEqual([first.text, first.check.wrong, first.check.text], ['cat', [], null]);
  assert.ok(first.check.tried > 20, String(first.check.tried));
  const tried = [];
  for (const options of [{}, { check: 'off' }, { check: 'again' }, { cache: 'none' }]) tried.push((await caption(options)).check.tried);
  assert.deepEqual(tried, [0, 0, first.check.tried, 0]);
  assert.match(await run(() => fails(() => QLlama.load(MODEL, { check: 'maybe' }))), /^E_INPUT: check: expected "on", "off" or "again"/);
});

test('other tasks are checked when they are first asked for', async () => {
  const tried = await run(async () => {
    const model = await QLlama.load(MODEL);
    const tried = [model.info.check.tried];
    for (let i = 0; i < 2; i++) {
      await model.captionText(catBlob, { numBeams: 3 });
      tried.push(model.info.check.tried);
    }
    await model.dispose();
    return tried;
  });
  assert.equal(tried[0], 0);
  assert.ok(tried[1] > 0 && tried[2] === tried[1], String(tried));
});

test('a damaged note counts for nothing', async () => {
  await run(async () => {
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('qllama-notes');
    for await (const handle of folder.values()) {
      const file = await handle.createWritable();
      await file.write('{');
      await file.close();
    }
  });
  const { check, text } = await caption();
  assert.ok(check.tried > 20 && text === 'cat', JSON.stringify(check));
});

test('a kernel that is wrong is left out, and told of', async () => {
  const { text, check } = await without('linear_tile', () => caption({ check: 'again' }));
  assert.equal(text, 'cat');
  assert.ok(check.wrong.length > 0 && check.wrong.every(({ kernel }) => kernel.startsWith('linear_tile ')), JSON.stringify(check.wrong));
  assert.match(check.text, /computes wrongly:\n {2}linear_tile .*: element \d+ is .*, not .*\nOther kernels take their place.*\n.*Chrome/s);
  // Without the check, it says something else.
  assert.notEqual((await without('linear_tile', () => caption({ check: 'off' }))).text, 'cat');
  // What was found is kept, and told on every load.
  const kept = await caption();
  assert.deepEqual([kept.text, kept.check.tried, kept.check.wrong], ['cat', 0, check.wrong]);
});

test('where nothing else computes it, loading ends before the weights', async () => {
  await api.clear();
  api.server.sent.splice(0);
  const found = await without('rms_norm', () => run(() => fails(() => QLlama.load(MODEL, { check: 'again' }))));
  assert.match(found, /^E_ADAPTER: .*computes wrongly: kernel rms_norm .*no other way/);
  // An earlier finding stands, and a new check finds that all is right.
  assert.deepEqual((await caption({ check: 'again' })).check.wrong, []);
});

test('the page shows once what is wrong', async () => {
  const page = await api.browser.context.newPage();
  await page.addInitScript(() => {
    const Real = Worker;
    globalThis.Worker = class extends Real {
      constructor(url, options) {
        const code = `
          const early = [];
          const keep = (event) => early.push(event.data);
          addEventListener('message', keep);
          const { createShaderModule } = GPUDevice.prototype;
          GPUDevice.prototype.createShaderModule = function (descriptor) {
            const code = descriptor.label === 'linear_tile' ? descriptor.code.replace(/(fn main\\([^{]*{)/, '$1 if true { return; }') : descriptor.code;
            return createShaderModule.call(this, { ...descriptor, code });
          };
          await import('${location.origin}/worker.js');
          removeEventListener('message', keep);
          for (const data of early) self.onmessage({ data });`;
        super(URL.createObjectURL(new Blob([code], { type: 'text/javascript' })), options);
      }
    };
  });
  await run(async () => (await navigator.storage.getDirectory()).removeEntry('qllama-notes', { recursive: true }));
  await page.goto(api.server.url);
  await page.waitForFunction(() => / is ready/.test(document.getElementById('status').textContent), null, { timeout: 60000 });
  assert.match(await page.locator('#faults').innerText(), /computes something wrongly[^]*linear_tile/i);
  await page.close();
});
