// Pictures to the pixels that the engine takes. Each is decoded in an instance of the engine of its own, which is let go
// afterwards: a decoder that stops at a broken file takes nothing else along, and the memory of a large one is given back.

import { fault } from './files.js';

/** What such an instance is given of what the engine wants from JavaScript: nothing, as it wants nothing for this. */
function none(module) {
  const imports = {};
  for (const { module: from, name, kind } of WebAssembly.Module.imports(module)) {
    if (kind !== 'function') continue;
    (imports[from] ??= {})[name] = () => {
      throw new Error(`${name} is not for pictures`);
    };
  }
  return imports;
}

/**
 * `{ side, rgb }`: the square of a picture that the model sees.
 * @param {WebAssembly.Module} module the engine's
 * @param {[number, number]} sides the model's
 * @param {{ blob: Blob } | { bitmap: ImageBitmap } | { width: number, height: number, rgba: Uint8Array }} image
 */
export async function square(module, [shortSide, side], image) {
  const { bytes, width = 0, height = 0 } = await given(image);
  const { exports } = await WebAssembly.instantiate(module, none(module)).catch((error) => {
    throw fault('E_OOM', { reason: `the picture: this browser has no memory left to read it (${error.message})` });
  });
  let went;
  try {
    const room = exports.picture_room(bytes.length);
    if (room === 0 && bytes.length > 0) throw fault('E_OOM', { reason: `the picture: this browser has no ${bytes.length} bytes of memory left for it` });
    new Uint8Array(exports.memory.buffer).set(bytes, room);
    went = exports.picture_prepare(width, height, shortSide, side);
  } catch (error) {
    if (!(error instanceof WebAssembly.RuntimeError)) throw error;
    throw fault('E_IMAGE', { reason: 'the picture: expected a whole picture: its decoder stopped' });
  }
  const answer = new Uint8Array(exports.memory.buffer, exports.picture_answer(), exports.picture_answer_length());
  if (went) return { side, rgb: answer.slice() };
  const [code, reason] = new TextDecoder().decode(answer).split('\n');
  throw fault(code, { reason });
}

/** A picture's file, or its pixels. What the engine cannot decode itself, the browser decodes. */
async function given(image) {
  if (image.bitmap) return pixels(image.bitmap);
  if (image.rgba) return { ...image, bytes: image.rgba };
  const blob = image.blob ?? new Blob([image.bytes]);
  const start = new Uint8Array(await blob.slice(0, 12).arrayBuffer());
  const starts = (...codes) => codes.every((code, i) => start[i] === code);
  const known = starts(0x89, 0x50, 0x4e, 0x47) || starts(0xff, 0xd8) || starts(0x52, 0x49, 0x46, 0x46);
  if (known || start.length === 0) {
    // As much as the engine reads natively.
    if (blob.size > MAX_FILE_BYTES) throw fault('E_IMAGE', { reason: `the picture: expected at most ${MAX_FILE_BYTES} bytes, found ${blob.size}` });
    return { bytes: new Uint8Array(await blob.arrayBuffer()) };
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { premultiplyAlpha: 'none', colorSpaceConversion: 'none' });
  } catch {
    throw fault('E_IMAGE', { reason: 'this is no picture that the engine or this browser can read; PNG, JPEG and WebP always work' });
  }
  return pixels(bitmap);
}

const MAX_FILE_BYTES = 2 ** 29;

function pixels(bitmap) {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { width, height, bytes: new Uint8Array(context.getImageData(0, 0, width, height).data.buffer) };
}
