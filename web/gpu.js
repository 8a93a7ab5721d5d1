// WebGPU outside of browsers: what the runtime has itself (Deno), or the npm package webgpu, which is Dawn.

import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

/** `{ gpu, globals }`; the second are the classes that browsers have. The error's message says what to do. */
export async function findGpu() {
  if (globalThis.navigator?.gpu) return { gpu: navigator.gpu, globals: {} };
  if (globalThis.Deno) throw new Error('this Deno has no WebGPU: take 2.7 or later, or run it with --unstable-webgpu');
  const found = resolved();
  if (!found) {
    const [runtime, command] = globalThis.Bun ? ['Bun', 'bun add webgpu'] : ['Node', 'npm install webgpu'];
    throw new Error(`${runtime} has no WebGPU of its own, and the package webgpu is not installed: ${command}`);
  }
  try {
    const { create, globals } = await import(pathToFileURL(found).href);
    return { gpu: create([]), globals };
  } catch (error) {
    throw new Error(`the package webgpu does not work here: ${error.message}`);
  }
}

/** The package's file, beside this one or for the program that runs. */
function resolved() {
  for (const from of [import.meta.url, process.argv[1], join(process.cwd(), 'x.js')]) {
    try {
      if (from) return createRequire(from).resolve('webgpu');
    } catch {
      // Not there; perhaps elsewhere.
    }
  }
  return null;
}
