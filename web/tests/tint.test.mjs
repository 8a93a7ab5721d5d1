// Chromium's compiler takes every pipeline of the ops' examples: Tint, in Dawn, with no driver behind it.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { create, globals } from 'webgpu';
import { root } from './browser.mjs';

Object.assign(globalThis, globals);

/** How a bind group layout declares an operand. */
const BINDINGS = {
  read: { buffer: { type: 'read-only-storage' } },
  write: { buffer: { type: 'storage' } },
  texture: { texture: { sampleType: 'uint' } },
  pieces: { storageTexture: { access: 'write-only', format: 'rgba32uint' } },
  words: { storageTexture: { access: 'write-only', format: 'r32uint' } },
  uniform: { buffer: { type: 'uniform' } },
};

/** What Tint and Dawn have against a pipeline. */
async function faults(device, { kernel, wgsl, constants, bindings }) {
  const found = [];
  device.pushErrorScope('validation');
  device.pushErrorScope('internal');
  const entries = [...bindings, 'uniform'].map((binding, i) => ({ binding: i, visibility: GPUShaderStage.COMPUTE, ...BINDINGS[binding] }));
  const groups = [entries];
  // Where in its grid a part begins: shaders/shared/part.wgsl.
  if (wgsl.includes('@group(1)')) groups.push([0, 1].map((binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type: 'uniform', hasDynamicOffset: true } })));
  const layout = device.createPipelineLayout({ bindGroupLayouts: groups.map((entries) => device.createBindGroupLayout({ entries })) });
  const module = device.createShaderModule({ code: wgsl, label: kernel });
  const { messages } = await module.getCompilationInfo();
  found.push(...messages.map(({ type, lineNum, message }) => `${type} in line ${lineNum}: ${message}`));
  await device.createComputePipelineAsync({ layout, compute: { module, entryPoint: 'main', constants } }).catch((error) => found.push(error.message));
  for (const scope of [await device.popErrorScope(), await device.popErrorScope()]) if (scope) found.push(scope.message);
  return found.map((fault) => `${kernel} ${JSON.stringify(constants)}: ${fault}`);
}

test('Tint takes every pipeline, and says nothing', async () => {
  const list = execFileSync('cargo', ['run', '--quiet', '--locked', '--example', 'pipelines'], { cwd: root, encoding: 'utf8', maxBuffer: 1 << 30, stdio: ['ignore', 'pipe', 'inherit'] });
  const pipelines = list.split('\n').filter(Boolean).map((line) => JSON.parse(line));
  assert.ok(pipelines.length > 300, String(pipelines.length));
  const gpu = create(['backend=null']);
  const device = await (await gpu.requestAdapter()).requestDevice();
  const found = [];
  for (const pipeline of pipelines) found.push(...(await faults(device, pipeline)));
  assert.deepEqual(found, []);
  // What is wrong is seen.
  const [one] = pipelines;
  const wrong = [
    { ...one, wgsl: one.wgsl.replace('fn main(', 'fn other(') },
    { ...one, wgsl: one.wgsl.replace(/return;/, 'return 1;') },
    { ...one, bindings: one.bindings.slice(1) },
    { ...one, constants: { ...one.constants, NO_SUCH: 1 } },
  ];
  for (const pipeline of wrong) assert.notDeepEqual(await faults(device, pipeline), [], JSON.stringify(pipeline).slice(0, 200));
  device.destroy();
});
