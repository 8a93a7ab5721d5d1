// What the tests of the API share: a page that has it, from a server that misbehaves where a test says so.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, before } from 'node:test';
import { apiPage, dist, open, pictures, root } from './browser.mjs';
import { serve } from './serve.mjs';

/** Opens the page before the tests of a file, `withModel` as its `model`, and closes it behind them. */
export function apiTests({ withModel = false } = {}) {
  const api = {
    server: null,
    browser: null,
    page: null,
    /** Served at `large/`. */
    large: mkdtempSync(join(tmpdir(), 'qllama-large-')),
    /** What the server does wrong: `(file name, request, response, file) => answered`. */
    fault: null,

    /** Runs code on the page. */
    run: (code, argument) => api.page.evaluate(code, argument),

    /** Runs something while the server misbehaves. */
    async during(what, code) {
      api.fault = what;
      try {
        return await api.run(code);
      } finally {
        api.fault = null;
      }
    },

    clear: () => api.run(() => QLlama.clearCache()),
  };

  before(async () => {
    const folders = { '/': dist, '/pictures/': pictures, '/fixtures/': join(root, 'tests/data/fixtures'), '/models/': join(root, 'models'), '/large/': api.large };
    api.server = await serve(folders, 0, (path, request, response, file) => api.fault?.(basename(path), request, response, file) ?? false);
    api.browser = await open();
    api.page = await apiPage(api.browser, api.server);
    await api.run(() => {
      /** Has workers run a script before their own; returns what ends that. */
      globalThis.before = (script) => {
        const Real = Worker;
        const code = `
          const early = [];
          const keep = (event) => early.push(event.data);
          addEventListener('message', keep);
          ${script}
          await import('${location.origin}/worker.js');
          removeEventListener('message', keep);
          for (const data of early) self.onmessage({ data });`;
        globalThis.Worker = class extends Real {
          constructor(url, options) {
            super(URL.createObjectURL(new Blob([code], { type: 'text/javascript' })), options);
          }
        };
        return () => (globalThis.Worker = Real);
      };
    });
    if (withModel) await api.run(async () => (globalThis.model = await QLlama.load(MODEL)) && null);
  });

  after(async () => {
    await api.browser?.close();
    api.server?.close();
    rmSync(api.large, { recursive: true });
  });

  return api;
}
