// The npm package as others use it: packed, installed, type-checked, bundled by Vite, and by a plain module script.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { dist, here, open, pictures } from './browser.mjs';
import { serve } from './serve.mjs';

const project = join(here, 'out/consumer');
const tool = (name, ...args) => execFileSync(process.execPath, [join(here, 'node_modules', ...name.split('/')), ...args], { cwd: project, encoding: 'utf8', stdio: 'pipe' });
let browser;

const MAIN = `
const model = await QLlama.load('/models/emoji-tiny/', { cache: 'none' });
document.title = await model.captionText(await (await fetch('/pictures/noto-cat.png')).blob());
`;

before(async () => {
  rmSync(project, { recursive: true, force: true });
  mkdirSync(project, { recursive: true });
  const npm = (...args) => execFileSync('npm', args, { cwd: project, encoding: 'utf8', stdio: 'pipe' });
  const packed = npm('pack', dist, '--silent').trim();
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'consumer', private: true, type: 'module' }));
  npm('install', '--offline', '--no-audit', '--no-fund', `./${packed}`);
  writeFileSync(join(project, 'index.html'), '<!doctype html><title>none</title><script type="module" src="./main.js"></script>');
  writeFileSync(join(project, 'main.js'), `import { QLlama } from 'qllama';${MAIN}`);
  writeFileSync(join(project, 'plain.html'), `<!doctype html><title>none</title><script type="module">import { QLlama } from './node_modules/qllama/qllama.js';${MAIN}</script>`);
  browser = await open();
});

after(() => browser?.close());

async function captions(folder, page) {
  const server = await serve({ '/': folder, '/models/': join(dist, 'models'), '/pictures/': pictures });
  const tab = await browser.context.newPage();
  const errors = [];
  tab.on('pageerror', (error) => errors.push(error.message));
  try {
    await tab.goto(server.url + page);
    await tab.waitForFunction(() => document.title !== 'none', null, { timeout: 60000 }).catch(() => {});
    assert.deepEqual([await tab.title(), errors], ['cat', []]);
  } finally {
    await tab.close();
    server.close();
  }
}

test('a plain module script captions a picture', () => captions(project, 'plain.html'));

test('a project built by Vite captions a picture', async () => {
  // The target has await at the top level, which the script uses; WebGPU is younger.
  tool('vite/bin/vite.js', 'build', '--logLevel', 'warn', '--target', 'es2022');
  await captions(join(project, 'dist'), '');
});

test('the whole API has types, and they refuse what is wrong', () => {
  cpSync(join(here, 'types.ts'), join(project, 'types.ts'));
  const check = () => tool('typescript/bin/tsc', '--noEmit', '--strict', '--target', 'esnext', '--module', 'esnext', '--moduleResolution', 'bundler', 'types.ts');
  check();
  // Each line that is marked holds an error; without its mark the compiler must find it.
  const text = readFileSync(join(here, 'types.ts'), 'utf8');
  const marked = text.split('// @ts-expect-error').length - 1;
  writeFileSync(join(project, 'types.ts'), text.replaceAll('// @ts-expect-error', '//'));
  assert.throws(check, (error) => error.stdout.match(/error TS/g).length === marked);
});
