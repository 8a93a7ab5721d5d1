// What crosses to the worker: arrays, pictures, texts.

import { QLlamaError, wrong } from './errors.js';
import { place } from './place.js';

/** Lone surrogates become U+FFFD, as in files. */
export function wellFormed(text) {
  return text.toWellFormed ? text.toWellFormed() : new TextDecoder().decode(new TextEncoder().encode(text));
}

export function floats(key, data) {
  if (data instanceof Float32Array) {
    if (data.buffer.detached) throw wrong(`${key}: its buffer is detached`);
    return data;
  }
  if (Array.isArray(data) || ArrayBuffer.isView(data)) return Float32Array.from(data, Number);
  throw wrong(`${key}: expected a Float32Array`);
}

export function wholeNumbers(key, data) {
  if (data?.buffer?.detached) throw wrong(`${key}: its buffer is detached`);
  if (data instanceof BigInt64Array) return data;
  if (!Array.isArray(data) && !(ArrayBuffer.isView(data) && !(data instanceof DataView))) {
    throw wrong(`${key}: expected a list or a typed array of whole numbers`);
  }
  return BigInt64Array.from(data, (value) => {
    if (typeof value === 'bigint') return value;
    if (!Number.isSafeInteger(value)) throw wrong(`${key}: ${String(value)} is not a whole number`);
    return BigInt(value);
  });
}

/** `{ data, shape }`, its data made by `of`. */
export function array(key, given, of) {
  if (!Array.isArray(given?.shape)) throw wrong(`${key}: expected { data, shape }`);
  return { data: of(key, given.data), shape: given.shape.map(Number) };
}

const is = (value, type) => typeof globalThis[type] === 'function' && value instanceof globalThis[type];

/** A picture in a form that can be sent. Bytes of files go as they are: the engine decodes them itself. */
export async function transferable(image) {
  const own = await place.picture(image);
  if (own) return own;
  if (image instanceof ArrayBuffer || ArrayBuffer.isView(image)) return { bytes: file(image) };
  if (is(image, 'Blob')) return { blob: image };
  if (is(image, 'ImageData')) {
    if (image.data.buffer.detached) throw wrong('image: its buffer is detached');
    return { width: image.width, height: image.height, rgba: new Uint8Array(image.data) };
  }
  const drawable = ['ImageBitmap', 'HTMLImageElement', 'HTMLCanvasElement', 'OffscreenCanvas', 'HTMLVideoElement', 'VideoFrame'];
  if (drawable.some((type) => is(image, type))) {
    let bitmap;
    try {
      if (is(image, 'HTMLImageElement')) await image.decode();
      bitmap = await createImageBitmap(image, { premultiplyAlpha: 'none', colorSpaceConversion: 'none' });
    } catch (error) {
      throw new QLlamaError('E_IMAGE', `this picture cannot be read: ${error.message}`);
    }
    if (readable(bitmap)) return { bitmap };
    bitmap.close();
    throw new QLlamaError('E_IMAGE', 'this picture is of another site, which does not let this page read it: that site must allow it (CORS: Access-Control-Allow-Origin), and an <img> or <video> needs the attribute crossorigin');
  }
  throw wrong('image: expected a Blob, an ArrayBuffer or Uint8Array of a file, ImageBitmap, ImageData, image, canvas, video or VideoFrame');
}

/** A copy of the bytes of a file: the caller's own stay the caller's. */
export function file(data) {
  if ((data.buffer ?? data).detached) throw wrong('image: its buffer is detached');
  return ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice() : new Uint8Array(data.slice(0));
}

/** Whether a page may read the pixels of a bitmap. */
function readable(bitmap) {
  const context = new OffscreenCanvas(1, 1).getContext('2d');
  try {
    context.drawImage(bitmap, 0, 0);
    context.getImageData(0, 0, 1, 1);
    return true;
  } catch {
    return false;
  }
}

export const bitmaps = (images) => images.filter((image) => image.bitmap).map((image) => image.bitmap);
