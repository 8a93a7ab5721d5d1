// Run by outside.test.mjs in Node, Deno and Bun: what a program there does with the package. Prints a line of JSON.
//   outside.mjs MODEL_FOLDER MODEL_ADDRESS PICTURE...

import { readFileSync } from 'node:fs';
import { relative } from 'node:path';
import { pathToFileURL } from 'node:url';
import { QLlama, QLlamaError } from 'qllama';

const [folder, address, ...pictures] = process.argv.slice(2);
const found = { supported: await QLlama.supported(), progress: [] };
/** The code, or name, of what a promise rejects with. */
const fails = async (what) => {
  try {
    await what();
    return 'nothing failed';
  } catch (error) {
    // A DOMException's code is a number.
    return `${error instanceof QLlamaError ? error.code : error.name}: ${error.message}`;
  }
};

// From disk, by a path; pictures as paths, addresses, bytes and blobs.
const model = await QLlama.load(relative(process.cwd(), folder), { onProgress: ({ phase }) => found.progress.push(phase) });
found.disk = { ...model.info };
const forms = [
  (path) => path,
  (path) => pathToFileURL(path),
  (path) => readFileSync(path),
  (path) => new Blob([readFileSync(path)]),
  (path) => new Uint8Array(readFileSync(path)).buffer,
];
found.captions = [];
for (const [i, path] of pictures.entries()) found.captions.push(await model.captionText(forms[i % forms.length](path)));
found.beams = await model.captionText(pictures[0], { numBeams: 3, minNewTokens: 4 });
found.match = await model.match(pictures.slice(0, 2), ['cat', 'dog']);
const bytes = readFileSync(pictures[0]);
await model.captionText(bytes);
found.bytesStay = bytes.length;
const controller = new AbortController();
const pending = fails(() => model.captionText(pictures[0], { minNewTokens: 200, maxNewTokens: 200, signal: controller.signal }));
setTimeout(() => controller.abort(), 50);
found.aborted = await pending;
found.errors = [
  await fails(() => model.captionText('no-such-picture.png')),
  await fails(() => model.captionText('https://localhost/cat.png')),
  await fails(() => model.captionText(new Uint8Array([1, 2, 3]))),
  await fails(() => model.captionText(5)),
  await fails(() => QLlama.load('no/such/model')),
  await fails(() => QLlama.load(new URL('.', pathToFileURL(pictures[0])))),
  await fails(() => QLlama.load(folder, { cache: 'opfs' })),
];
const ended = fails(() => model.captionText(pictures[0], { minNewTokens: 200, maxNewTokens: 200 }));
await model.dispose();
found.ended = await ended;

// Over the network, once.
await QLlama.clearCache();
found.network = [];
for (let visit = 0; visit < 2; visit++) {
  const model = await QLlama.load(address);
  const { fromStorage, networkBytes, storageNote } = model.info;
  found.network.push({ text: await model.captionText(pictures[0]), fromStorage, networkBytes, storageNote });
  // The second one is left as it is: the program ends all the same.
  if (visit === 0) await model.dispose();
}
console.log(JSON.stringify(found));
