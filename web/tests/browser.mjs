// Chromium as a person has it, with WebGPU on a software adapter.

import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

export const here = dirname(fileURLToPath(import.meta.url));
export const root = join(here, '../..');
export const dist = join(here, '../dist');
export const pictures = join(root, 'models/emoji-tiny/pictures');

const FLAGS = [
  '--no-sandbox',
  '--enable-unsafe-webgpu',
  '--use-webgpu-adapter=swiftshader',
  '--disable-domain-blocking-for-3d-apis',
  '--disable-gpu-process-crash-limit',
  // What stands in for another site is on this machine, too.
  '--disable-features=LocalNetworkAccessChecks',
];

export function chromiumPath() {
  return [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((p) => p && existsSync(p));
}

/** A browser with a profile of its own; `close` deletes it. */
export async function open(options = {}) {
  const profile = mkdtempSync(join(tmpdir(), 'qllama-web-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: chromiumPath(),
    headless: true,
    args: [...FLAGS, ...(options.args ?? [])],
    viewport: { width: 1200, height: 900 },
    ...options.context,
  });
  return {
    context,
    async close() {
      await context.close();
      rmSync(profile, { recursive: true, force: true });
    },
  };
}

/** A page with the API and nothing else, at the root of a server that has pictures under `pictures/`. */
export async function apiPage(browser, server) {
  const page = await browser.context.newPage();
  await page.route('**/blank.html', (route) => route.fulfill({ contentType: 'text/html', body: '<!doctype html><title>blank</title>' }));
  await page.goto(`${server.url}blank.html`);
  await page.evaluate(async () => {
    const api = await import('./qllama.js');
    Object.assign(globalThis, api);
    globalThis.blob = async (file) => (await fetch(`pictures/${file}`)).blob();
    globalThis.MODEL = 'models/emoji-tiny/';
    /** The code, or name, of what a promise rejects with. */
    globalThis.fails = async (what) => {
      try {
        await (typeof what === 'function' ? what() : what);
        return 'nothing failed';
      } catch (error) {
        return `${error.code && typeof error.code === 'string' ? error.code : error.name}: ${error.message}`;
      }
    };
    /** The pieces of a stream, and what it returns. */
    globalThis.collect = async (stream) => {
      const pieces = [];
      for (;;) {
        const { done, value } = await stream.next();
        if (done) return { pieces, value };
        pieces.push(value);
      }
    };
    globalThis.catBlob = await blob('noto-cat.png');
  });
  return page;
}

/**
 * How long each task of the page's own thread ran while `code` did, in milliseconds. It is the time that the thread had a
 * processor: what else a busy machine does lengthens no task, and a page's thread cannot wait within one.
 */
export async function tasksDuring(page, code) {
  const session = await page.context().newCDPSession(page);
  const events = [];
  session.on('Tracing.dataCollected', ({ value }) => events.push(...value));
  const complete = new Promise((resolve) => session.once('Tracing.tracingComplete', resolve));
  await session.send('Tracing.start', { transferMode: 'ReportEvents', traceConfig: { includedCategories: ['disabled-by-default-devtools.timeline', 'blink.user_timing'] } });
  await page.evaluate(() => performance.mark('tasks of this thread'));
  await page.evaluate(code);
  await session.send('Tracing.end');
  await complete;
  await session.detach();
  const { pid, tid } = events.find((event) => event.name === 'tasks of this thread');
  return events.filter((event) => event.pid === pid && event.tid === tid && event.name === 'RunTask' && event.tdur !== undefined).map((event) => event.tdur / 1000);
}
