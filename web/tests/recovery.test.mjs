// The GPU process ended at random moments of every kind of call: each gives what it gives undisturbed, and no byte comes over
// the network. `ENDS` is how often, 20 by default.

import assert from 'node:assert/strict';
import { basename, join } from 'node:path';
import { after, before, test } from 'node:test';
import { apiPage, dist, open, pictures, root } from './browser.mjs';
import { serve } from './serve.mjs';

const ENDS = Number(process.env.ENDS ?? 20);
/** Files of models that were asked for. */
const asked = [];
let server;
let browser;
let page;
let devtools;

const run = (code, argument) => page.evaluate(code, argument);

before(async () => {
  server = await serve({ '/': dist, '/pictures/': pictures, '/fixtures/': join(root, 'tests/data/fixtures') }, 0, (path, request) => {
    // The browser asks for news of the files behind a load, which fetches none of them.
    if (path.includes('/models/') && request.method !== 'HEAD') asked.push(basename(path));
    return false;
  });
  browser = await open();
  page = await apiPage(browser, server);
  devtools = (await browser.context.browser()?.newBrowserCDPSession().catch(() => null)) ?? (await browser.context.newCDPSession(page));
  await run(async () => {
    globalThis.recovered = [];
    const hear = (model) => model.on('recovered', (event) => recovered.push({ ...event, at: Date.now() }));
    /** A caption in its pieces. */
    const caption = async (options) => {
      const { pieces, value } = await collect(model.caption(catBlob, { minNewTokens: 24, maxNewTokens: 24, ...options }));
      return { pieces: pieces.join(''), text: value.text, ids: value.ids, sequences: value.sequences };
    };
    globalThis.tasks = {
      greedy: () => caption({}),
      beams: () => caption({ numBeams: 5 }),
      sampled: () => caption({ doSample: true, seed: 7, numReturnSequences: 2 }),
      match: () => model.match([catBlob, catBlob], ['a cat', 'a dog', 'a flower'], { mode: 'itm' }),
      embed: async () => [Array.from(await model.embedImage(catBlob, { mode: 'g' })), Array.from(await model.embedText('a cat'))],
      forward: async () => {
        const inputIds = (...data) => ({ data, shape: [1, data.length] });
        let { logits, pastKeyValues } = await model.forward({ inputIds: inputIds(1, 5, 9, 20), useCache: true });
        const seen = [Array.from(logits.data)];
        for (let id = 30; id < 42; id++) {
          ({ logits, pastKeyValues } = await model.forward({ inputIds: inputIds(id), pastKeyValues, useCache: true }));
          seen.push(Array.from(logits.data));
        }
        for (const { key } of await pastKeyValues.toArrays()) seen.push(Array.from(key.data));
        pastKeyValues.dispose();
        return seen;
      },
      load: async () => {
        const other = await QLlama.load(MODEL);
        hear(other);
        const text = await other.captionText(catBlob);
        const { fromStorage } = other.info;
        await other.dispose();
        return { text, fromStorage };
      },
    };
    globalThis.model = await QLlama.load(MODEL);
    hear(model);
  });
});

after(async () => {
  await browser?.close();
  server?.close();
});

test(`calls survive ${ENDS} ends of the GPU process at random moments`, async () => {
  const names = await run(() => Object.keys(tasks));
  const expected = {};
  const lasts = {};
  for (const name of names) {
    const found = await run(async (name) => {
      await tasks[name]();
      const start = performance.now();
      return { result: await tasks[name](), milliseconds: performance.now() - start };
    }, name);
    expected[name] = found.result;
    lasts[name] = found.milliseconds;
  }
  asked.length = 0;
  const network = await run(() => model.info.networkBytes);
  const noticed = [];
  const took = [];
  for (let end = 0; end < ENDS; end++) {
    const name = names[end % names.length];
    const wait = Math.random() * lasts[name];
    await run((name) => {
      recovered.length = 0;
      globalThis.pending = tasks[name]().catch((error) => String(error));
    }, name);
    await new Promise((resolve) => setTimeout(resolve, wait));
    const killed = Date.now();
    await devtools.send('Browser.crashGpuProcess').catch(() => {});
    const found = await run(() => Promise.race([pending, new Promise((resolve) => setTimeout(resolve, 60000, 'nothing in 60 s'))]));
    assert.deepEqual(found, expected[name], `${name}, ended after ${wait.toFixed(0)} of ${lasts[name].toFixed(0)} ms`);
    took.push(Date.now() - killed);
    for (const { at, seconds } of await run(() => recovered)) noticed.push(at - seconds * 1000 - killed);
  }
  const most = (list) => Math.max(...list).toFixed(0);
  console.log(`${ENDS} ends: noticed ${noticed.length} in calls after at most ${most(noticed)} ms; calls ended ${most(took)} ms after it at most`);
  assert.ok(noticed.length >= ENDS / 4, `${noticed.length} recoveries`);
  assert.ok(Math.max(...noticed) <= 1000, `${most(noticed)} ms`);
  assert.deepEqual(asked, [], 'files that were asked for');
  assert.equal(await run(() => model.info.networkBytes), network);
});

test('who listens hears what happened, and may stop', async () => {
  const found = await run(() => {
    recovered.length = 0;
    globalThis.once = [];
    const stop = model.on('recovered', (event) => {
      once.push(event);
      stop();
      throw new Error('mine');
    });
    addEventListener('error', (event) => event.preventDefault(), { once: true });
    return [fails(async () => model.on('lost', () => {})), fails(async () => model.on('recovered', 1))].reduce(async (all, one) => [...(await all), await one], []);
  });
  for (const message of found) assert.match(message, /^E_INPUT/);
  for (let end = 0; end < 2; end++) {
    await devtools.send('Browser.crashGpuProcess').catch(() => {});
    assert.equal(await run(() => model.captionText(catBlob)), 'cat');
  }
  const { once, recovered } = await run(() => ({ once, recovered }));
  assert.equal(once.length, 1);
  assert.ok(recovered.length >= 2);
  assert.ok(recovered[0].reason.length > 0 && recovered[0].seconds > 0 && recovered[0].adapter.length > 0, JSON.stringify(recovered));
});
