// The demo page.

import { QLlama, QLlamaError } from './qllama.js';

const $ = (id) => document.getElementById(id);
const status = $('status');
const captionBox = $('caption');

let model = null;
/** Where it came from. */
let origin = '';
/** Whether a model was ever ready here. */
let worked = false;
/** The picture that is shown, as a Blob or canvas. */
let picture = null;
let running = null;
let loading = null;
/** Embeddings of the gallery's pictures, by file. */
let embeddings = new Map();
let searches = 0;
let speed = null;

/** Says something at the place where a person has just done something. */
function say(place, text, bad = false) {
  place.textContent = text;
  place.classList.toggle('bad', bad);
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}`;

function words(error) {
  return error instanceof QLlamaError ? sentence(`${error.message} (${error.code})`) : String(error?.message ?? error);
}

const bytes = (n) => (n >= 1e9 ? `${(n / 1e9).toFixed(2)} GB` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} MB` : `${Math.round(n / 1e3)} kB`);

function quiet(text) {
  const span = document.createElement('span');
  span.className = 'quiet';
  span.textContent = text;
  return span;
}

/** Scrolls as little as it takes to have all of an element in sight, where it fits. */
function inSight(element) {
  const { top, bottom } = element.getBoundingClientRect();
  if (top >= 0 && bottom <= innerHeight) return;
  const block = bottom - top > innerHeight ? 'start' : 'nearest';
  element.scrollIntoView({ block, behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'instant' : 'smooth' });
}

// The model.

async function load(url) {
  loading?.abort();
  const mine = new AbortController();
  loading = mine;
  running?.abort();
  await model?.dispose();
  model = null;
  origin = url;
  embeddings = new Map();
  ready();
  const bar = $('progress');
  const amount = $('amount');
  bar.hidden = false;
  bar.removeAttribute('value');
  say(status, 'Loading the model…');
  try {
    const loaded = await QLlama.load(url, {
      signal: mine.signal,
      onProgress({ phase, bytes: done, total, secondsLeft }) {
        if (phase === 'ready' || mine.signal.aborted) return;
        const what = { start: 'Starting…', download: 'Fetching the model…', upload: 'Preparing the model…' }[phase];
        if (status.textContent !== what) say(status, what);
        const left = secondsLeft === null ? '' : `, ${Math.ceil(secondsLeft)} s left`;
        amount.textContent = total > 0 ? `${bytes(done)} of ${bytes(total)}${left}` : '';
        if (total > 0) bar.value = done / total;
      },
    });
    if (mine.signal.aborted) return await loaded.dispose();
    model = loaded;
    worked = true;
    const { name, software, vision, crossAttentionLayers } = model.info;
    const place = software ? 'the processor (a software adapter)' : 'the GPU';
    const rest = vision ? '' : ' It is a text model: this page has nothing to show it.';
    say(status, `${name} is ready, on ${place}.${rest}`);
    $('layer').replaceChildren(...Array.from({ length: crossAttentionLayers }, (_, i) => new Option(`${i + 1}`, i)));
    $('layer').value = crossAttentionLayers - 1;
    ready();
    finished();
    if (vision) await (picture ? describe() : warmUp());
  } catch (error) {
    if (error.code === 'E_ADAPTER' && !worked) missing(error.message);
    else if (error.name !== 'AbortError') say(status, `The model could not be loaded. ${words(error)}`, true);
  } finally {
    finished();
  }

  function finished() {
    if (loading !== mine) return;
    bar.hidden = true;
    amount.textContent = '';
  }
}

function ready() {
  const { vision, match, crossAttentionLayers } = model?.info ?? {};
  $('rank').disabled = !match || !picture;
  $('find').disabled = !match;
  for (const button of $('suggestions').children) button.disabled = !match;
  $('look').disabled = !vision || !crossAttentionLayers || !picture;
  facts();
}

/** Says once what the GPU computes wrongly, in words that can be sent to whoever can mend it. */
function warn() {
  const text = model?.info.check.text ?? null;
  if (text === null || text === $('faults-text').textContent) return;
  $('faults-text').textContent = text;
  $('faults').hidden = false;
}

function facts() {
  warn();
  const rows = [];
  if (model) {
    const i = model.info;
    rows.push(
      ['Runs on', `${i.adapter || 'an adapter that keeps its name to itself'} (WebGPU${i.software ? ', software' : ''})`],
      ['Limits', `bindings up to ${bytes(i.maxBindingBytes)}, buffers up to ${bytes(i.maxBufferBytes)}`],
      ['Memory', `${i.software ? 'WebGPU' : 'GPU'} ${bytes(i.gpuBytes)} (${bytes(i.gpuBytesPeak)} at most), WebAssembly ${bytes(i.wasmBytes)}`],
      ['Model', `${i.layers} layers of width ${i.hiddenSize}, ${i.vocabSize} tokens, pictures of ${i.imageSize} px`],
      ['Loaded', `${i.fromStorage ? 'from this browser’s storage' : 'over the network'}, ${bytes(i.networkBytes)} transferred, ${i.loadSeconds.toFixed(2)} s`],
    );
    if (i.storageNote) rows.push(['Not kept', i.storageNote]);
    if (speed) rows.push(['Speed', speed]);
  }
  $('facts').replaceChildren(
    ...rows.flatMap(([term, text]) => {
      const dt = document.createElement('dt');
      const dd = document.createElement('dd');
      dt.textContent = term;
      dd.textContent = text;
      return [dt, dd];
    }),
  );
}

/** Runs something with the model and returns whether it went well; an error is said at `place`. */
async function guarded(place, what) {
  try {
    await what();
    return true;
  } catch (error) {
    if (error.name === 'AbortError') return false;
    if (error.code === 'E_DEVICE_LOST') {
      say(status, 'The device was lost. Loading the model again…', true);
      inSight($('state'));
      load(origin);
    } else {
      say(place, words(error), true);
      inSight(place.parentElement);
    }
    return false;
  }
}

// The picture and its caption.

/** Takes a picture, shows it and has it captioned; `file` is its file's name where it is one of the gallery's. */
async function show(image, file = null) {
  picture = image;
  for (const { dataset, firstChild } of gallery.children) firstChild.setAttribute('aria-pressed', dataset.file === file);
  say($('trouble'), '');
  $('heat').hidden = true;
  listTexts();
  ready();
  inSight($('result'));
  const previewed = preview(image);
  if (model?.info.vision) await describe();
  else if (!model) captionBox.replaceChildren(quiet('The caption comes when the model is ready.'));
  await previewed;
}

/** Draws what the model sees of a picture: the largest square in its middle. */
async function preview(image) {
  const canvas = $('preview');
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(image);
  } catch {
    // Said below.
  }
  if (image !== picture) return bitmap?.close();
  $('frame').hidden = bitmap === null;
  if (bitmap === null) {
    $('hint').textContent = 'This browser cannot show the picture';
    return;
  }
  const { width, height } = bitmap;
  const side = Math.min(width, height);
  canvas.width = canvas.height = Math.min(side, 640);
  canvas.setAttribute('aria-label', 'Your picture');
  const context = canvas.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(bitmap, (width - side) / 2, (height - side) / 2, side, side, 0, 0, canvas.width, canvas.height);
  bitmap.close();
}

/** Forgets a picture that cannot be read. */
function forget() {
  picture = null;
  $('frame').hidden = true;
  $('hint').textContent = 'Drop or paste a picture, or choose one below';
  ready();
}

async function describe() {
  running?.abort();
  const mine = new AbortController();
  running = mine;
  const of = picture;
  captionBox.replaceChildren(quiet('Looking…'));
  captionBox.setAttribute('aria-busy', 'true');
  $('stop').disabled = false;
  $('speed').textContent = '';
  const went = await guarded($('trouble'), async () => {
    try {
      const stream = model.caption(of, { signal: mine.signal });
      let text = '';
      for (;;) {
        const { done, value } = await stream.next();
        if (mine.signal.aborted) return;
        if (!done) {
          text += value;
          captionBox.textContent = text;
          continue;
        }
        captionBox.textContent = value.text || '(the model says nothing)';
        const rate = value.tokensPerSecond === null ? '' : `, ${value.tokensPerSecond.toFixed(1)} tokens/s`;
        speed = `${value.firstTokenSeconds.toFixed(2)} s to the first token${rate}`;
        $('speed').textContent = speed;
        $('preview').setAttribute('aria-label', `Your picture, captioned: ${value.text}`);
        break;
      }
    } catch (error) {
      if (error.code === 'E_IMAGE' && of === picture) forget();
      throw error;
    } finally {
      if (running === mine) {
        $('stop').disabled = true;
        captionBox.setAttribute('aria-busy', 'false');
        if (captionBox.querySelector('.quiet')) captionBox.replaceChildren(quiet('No caption.'));
      }
    }
  });
  if (!went || of !== picture) return;
  facts();
  if ($('heat-on').checked) await heat();
}

/** Has the GPU's programs made while nobody waits for them. */
async function warmUp() {
  const blank = new ImageData(1, 1);
  running = new AbortController();
  await guarded(status, () => model.captionText(blank, { maxNewTokens: 2, signal: running.signal }));
}

$('stop').onclick = () => running?.abort();

async function heat() {
  const canvas = $('heat');
  if (!$('heat-on').checked || !model || !picture) {
    canvas.hidden = true;
    return;
  }
  const of = picture;
  await guarded($('trouble'), async () => {
    const { width, height, values } = await model.attention(picture, { layer: Number($('layer').value) });
    if (of !== picture || !$('heat-on').checked) return;
    const most = values.reduce((a, b) => Math.max(a, b), 0);
    const least = values.reduce((a, b) => Math.min(a, b), Infinity);
    const map = new ImageData(width, height);
    values.forEach((value, i) => {
      const t = most > least ? (value - least) / (most - least) : 0;
      // From clear blue over yellow to red.
      map.data.set([255 * Math.min(1, 2 * t), 255 * (t < 0.5 ? 2 * t : 2 - 2 * t), 255 * Math.max(0, 1 - 2 * t), 60 + 195 * t], 4 * i);
    });
    const small = new OffscreenCanvas(width, height);
    small.getContext('2d').putImageData(map, 0, 0);
    canvas.width = canvas.height = 448;
    const context = canvas.getContext('2d');
    context.imageSmoothingQuality = 'high';
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    canvas.hidden = false;
  });
}

$('heat-on').onchange = heat;
$('layer').onchange = heat;

function take(files) {
  const file = [...(files ?? [])].find((f) => f.type.startsWith('image/')) ?? files?.[0];
  if (file) show(file);
}

$('choose').onclick = () => $('file').click();
$('file').onchange = () => {
  take($('file').files);
  $('file').value = '';
};
addEventListener('dragover', (event) => {
  event.preventDefault();
  $('drop').classList.add('over');
});
addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) $('drop').classList.remove('over');
});
addEventListener('drop', (event) => {
  event.preventDefault();
  $('drop').classList.remove('over');
  take(event.dataTransfer.files);
});
addEventListener('paste', (event) => {
  if (event.clipboardData.files.length > 0) {
    event.preventDefault();
    take(event.clipboardData.files);
  }
});

// Camera.

const video = $('video');
function closeCamera() {
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
}
$('camera').onclick = async () => {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
    $('shooting').showModal();
  } catch (error) {
    say($('trouble'), `The camera cannot be used: ${error.message}`, true);
  }
};
$('shoot').onclick = () => {
  const canvas = document.createElement('canvas');
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext('2d').drawImage(video, 0, 0);
  $('shooting').close();
  if (canvas.width > 0) show(canvas);
};
$('close-camera').onclick = () => $('shooting').close();
$('shooting').onclose = closeCamera;

// Drawing.

const pad = $('pad');
const ink = pad.getContext('2d', { willReadFrequently: true });
const pen = { x: 128, y: 128, down: false };
function wipe() {
  ink.fillStyle = '#fff';
  ink.fillRect(0, 0, pad.width, pad.height);
}
function line(x, y) {
  ink.strokeStyle = $('ink').value;
  ink.lineWidth = Number($('width').value);
  ink.lineCap = 'round';
  ink.beginPath();
  ink.moveTo(pen.x, pen.y);
  ink.lineTo(x, y);
  ink.stroke();
}
function at(event) {
  const box = pad.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * pad.width, ((event.clientY - box.top) / box.height) * pad.height];
}
wipe();
pad.onpointerdown = (event) => {
  pad.setPointerCapture(event.pointerId);
  [pen.x, pen.y] = at(event);
  line(pen.x, pen.y);
};
pad.onpointermove = (event) => {
  const [x, y] = at(event);
  if (event.buttons & 1) line(x, y);
  if (event.buttons & 1 || !pen.down) [pen.x, pen.y] = [x, y];
};
pad.onkeydown = (event) => {
  const steps = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] };
  if (event.key === ' ') {
    pen.down = !pen.down;
    if (pen.down) line(pen.x, pen.y);
  } else if (steps[event.key]) {
    const x = Math.min(pad.width, Math.max(0, pen.x + steps[event.key][0]));
    const y = Math.min(pad.height, Math.max(0, pen.y + steps[event.key][1]));
    if (pen.down) line(x, y);
    [pen.x, pen.y] = [x, y];
  } else return;
  event.preventDefault();
};
$('draw').onclick = () => $('drawing').showModal();
$('wipe').onclick = wipe;
$('close-drawing').onclick = () => $('drawing').close();
$('use-drawing').onclick = () => {
  // A copy, so that drawing on changes nothing of what is shown.
  const copy = document.createElement('canvas');
  copy.width = pad.width;
  copy.height = pad.height;
  copy.getContext('2d').drawImage(pad, 0, 0);
  $('drawing').close();
  show(copy);
};

// Texts.

const texts = () => [...new Set($('texts').value.split('\n').map((t) => t.trim()).filter(Boolean))];

/** One line and bar per text; a share is null where it is not known. */
function drawRanking(rows) {
  $('ranking').replaceChildren(
    ...rows.map(([text, share]) => {
      const item = document.createElement('li');
      const [name, percent, bar] = ['span', 'span', 'div'].map((tag) => document.createElement(tag));
      name.textContent = text;
      percent.className = 'share';
      percent.textContent = share === null ? '–' : `${(100 * share).toFixed(1)} %`;
      bar.className = 'bar';
      bar.style.setProperty('--share', share ?? 0);
      item.classList.toggle('done', share !== null);
      item.append(name, percent, bar);
      return item;
    }),
  );
}

/** The texts without shares, where those come, so that nothing moves when they do. */
function listTexts() {
  drawRanking(texts().map((text) => [text, null]));
  say($('ranked'), picture ? '' : 'Needs a picture.');
}

$('texts').oninput = listTexts;
$('mode').onchange = listTexts;

$('match').onsubmit = (event) => {
  event.preventDefault();
  guarded($('ranked'), async () => {
    const given = texts();
    if (given.length === 0) return say($('ranked'), 'Write at least one text.', true);
    const of = picture;
    say($('ranked'), 'Ranking…');
    const [row] = await model.match([picture], given, { mode: $('mode').value });
    if (of !== picture || given.join('\n') !== texts().join('\n')) return;
    const ranked = given.map((text, i) => [text, row[i]]).sort((a, b) => b[1] - a[1]);
    drawRanking(ranked);
    say($('ranked'), `“${ranked[0][0]}” fits best.`);
    inSight($('ranking'));
    facts();
  });
};

// Gallery.

const gallery = $('gallery');
const address = (file) => `models/emoji-tiny/pictures/${file}`;
const nameOf = (file) => file.replace(/^noto-|\.png$/g, '').replaceAll('-', ' ');

async function blobOf(file) {
  const response = await fetch(address(file));
  if (!response.ok) throw new Error(`${file} could not be fetched: ${response.status}`);
  return response.blob();
}

async function fillGallery() {
  const files = await (await fetch('gallery.json')).json();
  gallery.replaceChildren(
    ...files.map((file) => {
      const item = document.createElement('li');
      item.dataset.file = file;
      const button = document.createElement('button');
      button.type = 'button';
      button.setAttribute('aria-pressed', 'false');
      button.onclick = () => guarded($('trouble'), async () => show(await blobOf(file), file));
      const image = new Image(64, 64);
      image.src = address(file);
      image.alt = nameOf(file);
      button.append(image);
      item.append(button);
      return item;
    }),
  );
}

const unit = (v) => {
  const norm = Math.hypot(...v);
  return v.map((x) => x / norm);
};

$('search').onsubmit = (event) => {
  event.preventDefault();
  const query = $('query').value.trim();
  if (query === '' || !model?.info.match) return;
  const mine = model;
  const search = ++searches;
  const stale = () => mine !== model || search !== searches;
  say($('found'), '');
  guarded($('found'), async () => {
    const items = [...gallery.children];
    try {
      for (const [i, { dataset: { file } }] of items.entries()) {
        if (embeddings.has(file)) continue;
        $('reading').textContent = `Reading the pictures: ${i + 1} of ${items.length}`;
        const embedding = unit(await mine.embedImage(await blobOf(file)));
        if (stale()) return;
        embeddings.set(file, embedding);
      }
    } finally {
      if (search === searches) $('reading').textContent = '';
    }
    const text = unit(await mine.embedText(query));
    if (stale()) return;
    const score = (item) => embeddings.get(item.dataset.file).reduce((sum, x, i) => sum + x * text[i], 0);
    const scored = items.map((item) => [score(item), item]).sort((a, b) => b[0] - a[0]);
    gallery.append(...scored.map(([, item]) => item));
    gallery.scrollLeft = 0;
    const [best, second] = scored.map(([, item]) => nameOf(item.dataset.file));
    say($('found'), `Best: ${best}, then ${second}.`);
    inSight(gallery);
    facts();
  });
};

for (const button of $('suggestions').children) {
  button.onclick = () => {
    $('query').value = button.textContent;
    $('search').requestSubmit();
  };
}

$('faults-copy').onclick = async () => {
  try {
    await navigator.clipboard.writeText($('faults-text').textContent);
    $('faults-copy').textContent = 'Copied';
  } catch {
    getSelection().selectAllChildren($('faults-text'));
  }
};

// Start.

$('model').onsubmit = (event) => {
  event.preventDefault();
  load($('url').value.trim());
  inSight($('state'));
};
$('clear').onclick = async () => {
  try {
    await QLlama.clearCache();
    $('cleared').textContent = 'Cleared: the next visit fetches the model anew.';
  } catch (error) {
    $('cleared').textContent = words(error);
  }
};

/** Says why there is no WebGPU and who has it, the reader's own browser first where something can be done in it. */
function missing(reason) {
  $('missing').hidden = false;
  document.querySelector('main').hidden = true;
  $('state').hidden = true;
  // The page has the list of browsers that the reason ends with where WebGPU is missing.
  $('missing-reason').textContent = `${sentence(reason.split('. ')[0])}.`;
  $('missing-browsers').hidden = !isSecureContext;
  const { userAgent } = navigator;
  if (!/Linux/.test(userAgent) || /Android/.test(userAgent)) return;
  const here = document.querySelector(`[data-here=${/Firefox\//.test(userAgent) ? 'firefox' : 'chrome'}-linux]`);
  here.classList.add('here');
  here.parentElement.prepend(here);
}

listTexts();
fillGallery().catch(() => say($('found'), 'The gallery could not be fetched.', true));
const asked = new URLSearchParams(location.search).get('model');
if (asked) $('url').value = asked;
await load($('url').value);
// The page itself without a network, from the second visit on.
navigator.serviceWorker?.register('offline.js').catch(() => {});
