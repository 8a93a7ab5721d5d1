// The npm package in Node, Deno and Bun: installed, imported by its name, beside the native program.

import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { dist, here, pictures, root } from './browser.mjs';
import { serve } from './serve.mjs';

// Away from this project's own packages.
const project = mkdtempSync(join(tmpdir(), 'qllama-outside-'));
const modules = join(here, 'node_modules');
const program = process.env.QLLAMA ?? join(root, 'target/debug/qllama');
const paths = ['cat', 'dog', 'pizza', 'rocket', 'bear'].map((name) => join(pictures, `noto-${name}.png`));
const folder = join(root, 'models/emoji-tiny-w4');
let server;
let wanted;

before(async () => {
  const npm = (...args) => execFileSync('npm', args, { cwd: project, encoding: 'utf8', stdio: 'pipe' });
  const packed = npm('pack', dist, '--silent').trim();
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'outside', private: true, type: 'module' }));
  npm('install', '--offline', '--no-audit', '--no-fund', `./${packed}`);
  cpSync(join(here, 'outside.mjs'), join(project, 'outside.mjs'));
  server = await serve({ '/model/': folder });
  wanted = expected();
});

after(() => {
  server?.close();
  rmSync(project, { recursive: true });
});

/** What the program prints: an object a line. */
function native(...args) {
  const out = execFileSync(program, [...args, '--json'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  return out.split('\n').filter(Boolean).map((line) => JSON.parse(line));
}

/** Dawn wants a newer Vulkan than Debian 12's Mesa has; beside Chromium lies SwiftShader. */
function dawn() {
  const own = join(project, 'swiftshader.json');
  const library = '/usr/lib/chromium/libvk_swiftshader.so';
  if (!existsSync(library)) return {};
  writeFileSync(own, JSON.stringify({ file_format_version: '1.0.0', ICD: { library_path: library, api_version: '1.0.5' } }));
  return { VK_ICD_FILENAMES: own, VK_DRIVER_FILES: own };
}

/** What the native program says of the same pictures. */
function expected() {
  const [{ text: beams }] = native('caption', '--min-new-tokens', '4', '--num-beams', '3', paths[0]);
  const captions = native('caption', ...paths).map(({ text }) => text);
  const table = native('match', '--mode', 'c', '--image', ...paths.slice(0, 2), '--text', 'cat', 'dog');
  return { captions, beams, table: table.flatMap((row) => row.probabilities) };
}

async function run(name, command, args, env = {}) {
  const cache = join(project, `cache-${name}`);
  const { stdout } = await promisify(execFile)(command, [...args, 'outside.mjs', folder, `${server.url}model/`, ...paths], {
    cwd: project,
    timeout: 120000,
    env: { ...process.env, XDG_CACHE_HOME: cache, DENO_NO_UPDATE_CHECK: '1', ...env },
  });
  const found = JSON.parse(stdout);
  assert.deepEqual(found.supported, { ok: true });
  const { captions, beams, table } = wanted;
  assert.deepEqual([found.captions, found.beams], [captions, beams]);
  found.match.flat().forEach((p, i) => assert.ok(Math.abs(p - table[i]) < 1e-4, `${p}, and ${table[i]}`));
  assert.ok(found.progress.includes('upload') && found.progress.at(-1) === 'ready', found.progress.join());
  assert.deepEqual([found.disk.networkBytes, found.disk.fromStorage, found.disk.storageNote], [0, false, null]);
  assert.ok(found.disk.adapter.length > 0 && found.bytesStay > 0);
  assert.match(found.aborted, /^AbortError/);
  assert.match(found.ended, /^E_STATE/);
  const errors = [
    /^E_IO: no-such-picture\.png: not found$/,
    /^E_INPUT: image: expected a path/,
    /^E_IMAGE: /,
    /^E_INPUT: image: /,
    /^E_IO: model: not found$/,
    /^E_IO: .*config\.json/,
    /^E_INPUT: cache: expected "disk" or "none"$/,
  ];
  errors.forEach((expected, i) => assert.match(found.errors[i], expected));
  const [first, second] = found.network;
  const text = captions[0];
  assert.deepEqual([first.text, first.fromStorage, first.storageNote], [text, false, null]);
  assert.ok(first.networkBytes > 1e6, String(first.networkBytes));
  assert.deepEqual(second, { text, fromStorage: true, networkBytes: 0, storageNote: null });
  const kept = readdirSync(join(cache, 'qllama/models'), { recursive: true }).map(String);
  assert.ok(kept.some((file) => file.endsWith('model.safetensors')) && !kept.some((file) => file.endsWith('.lock')), kept.join());
}

const binary = (name) => join(modules, '.bin', name);

test('Deno, with its own WebGPU', () => run('deno', binary('deno'), ['run', '--allow-all']));

test('Node and Bun say what is missing where the package webgpu is not there', async () => {
  const code = "import { QLlama } from 'qllama'; console.log(JSON.stringify(await QLlama.supported()));";
  const runtimes = [[binary('bun'), '-e'], ...(node20 ? [[process.execPath, '--input-type=module', '-e']] : [])];
  for (const [command, ...args] of runtimes) {
    const { ok, reason } = JSON.parse(execFileSync(command, [...args, code], { cwd: project, encoding: 'utf8' }));
    assert.equal(ok, false);
    assert.match(reason, /webgpu is not installed: (npm install|bun add) webgpu$/);
  }
});

/** Debian 12 has an older one; test.sh says so. */
const node20 = parseInt(process.versions.node) >= 20;

test('Node and Bun, with Dawn', async () => {
  symlinkSync(join(modules, 'webgpu'), join(project, 'node_modules/webgpu'));
  if (node20) await run('node', process.execPath, [], dawn());
  await run('bun', binary('bun'), [], dawn());
});
