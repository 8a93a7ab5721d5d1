// The demo page.

import { QLlama, QLlamaError } from './qllama.js';

const $ = (id) => document.getElementById(id);
const status = $('status');
const captionBox = $('caption');

let model = null;
/** Where it came from. */
let origin = '';
/** The picture that is shown, as a Blob or canvas. */
let picture = null;
let running = null;
let loading = null;
/** Embeddings of the gallery's pictures, by file. */
let embeddings = new Map();
let speed = null;

function say(text, bad = false) {
  status.textContent = text;
  status.classList.toggle('bad', bad);
}

function words(error) {
  return error instanceof QLlamaError ? `${error.message} (${error.code})` : String(error?.message ?? error);
}

const bytes = (n) => (n >= 1e9 ? `${(n / 1e9).toFixed(2)} GB` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} MB` : `${Math.round(n / 1e3)} kB`);

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
  bar.hidden = false;
  bar.removeAttribute('value');
  say('Loading the model…');
  try {
    const loaded = await QLlama.load(url, {
      signal: mine.signal,
      onProgress({ phase, bytes: done, total, secondsLeft }) {
        if (phase === 'ready' || mine.signal.aborted) return;
        const what = { start: 'Starting', download: 'Fetching the model', upload: 'Bringing the model to the GPU' }[phase];
        const left = secondsLeft === null ? '' : `, ${Math.ceil(secondsLeft)} s left`;
        say(total > 0 ? `${what}: ${bytes(done)} of ${bytes(total)}${left}` : `${what}…`);
        if (total > 0) bar.value = done / total;
      },
    });
    if (mine.signal.aborted) return await loaded.dispose();
    model = loaded;
    const { name, loadSeconds, fromStorage } = model.info;
    say(`${name} is ready: ${loadSeconds.toFixed(1)} s${fromStorage ? ', from this browser’s storage' : ''}.`);
    $('layer').replaceChildren(
      ...Array.from({ length: model.info.crossAttentionLayers }, (_, i) => new Option(`${i + 1}`, i)),
    );
    $('layer').value = model.info.crossAttentionLayers - 1;
    ready();
    if (!model.info.vision) say(`${name} is ready, but it is a text model: this page has nothing to show it.`);
    else if (picture) await describe();
    else await warmUp();
  } catch (error) {
    if (error.name !== 'AbortError') say(`The model could not be loaded: ${words(error)}`, true);
  } finally {
    if (loading === mine) bar.hidden = true;
  }
}

function ready() {
  const { vision, match, crossAttentionLayers } = model?.info ?? {};
  $('rank').disabled = !match || !picture;
  $('find').disabled = !match;
  $('look').disabled = !vision || !crossAttentionLayers || !picture;
  facts();
}

function facts() {
  const rows = [];
  if (model) {
    const i = model.info;
    const kernels = i.subgroups ? 'with subgroups' : 'portable, without subgroups';
    rows.push(
      ['Runs on', `${i.adapter || 'an adapter that keeps its name to itself'} (WebGPU${i.software ? ', software' : ''})`],
      ['Kernels', kernels],
      ['Limits', `bindings up to ${bytes(i.maxBindingBytes)}, buffers up to ${bytes(i.maxBufferBytes)}`],
      ['Memory', `GPU ${bytes(i.gpuBytes)} (${bytes(i.gpuBytesPeak)} at most), WebAssembly ${bytes(i.wasmBytes)}`],
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

/** Runs something with the model; errors go where a person sees them. */
async function guarded(what) {
  try {
    return await what();
  } catch (error) {
    if (error.name === 'AbortError') return;
    if (error.code === 'E_DEVICE_LOST') {
      say('The GPU was lost. Loading the model again…', true);
      load(origin);
    } else say(words(error), true);
  }
}

// The picture and its caption.

async function show(image) {
  picture = image;
  const old = $('preview').src;
  $('preview').alt = 'Your picture';
  $('preview').src = URL.createObjectURL(image instanceof Blob ? image : await new Promise((done) => image.toBlob(done)));
  if (old.startsWith('blob:')) URL.revokeObjectURL(old);
  $('frame').hidden = false;
  $('hint').textContent = 'Drop or paste another one';
  $('heat').hidden = true;
  $('ranking').replaceChildren();
  ready();
  if (model?.info.vision) await describe();
  else if (!model) captionBox.innerHTML = '<span class="quiet">The caption comes when the model is ready.</span>';
}

async function describe() {
  running?.abort();
  const mine = new AbortController();
  running = mine;
  captionBox.textContent = '';
  $('stop').disabled = false;
  $('speed').textContent = '';
  await guarded(async () => {
    try {
      const stream = model.caption(picture, { signal: mine.signal });
      for (;;) {
        const { done, value } = await stream.next();
        if (mine.signal.aborted) return;
        if (!done) {
          captionBox.append(value);
          continue;
        }
        captionBox.textContent = value.text || '(the model says nothing)';
        const rate = value.tokensPerSecond === null ? '' : `, then ${value.tokensPerSecond.toFixed(1)} tokens a second`;
        speed = `first token after ${value.firstTokenSeconds.toFixed(2)} s${rate}`;
        $('speed').textContent = speed;
        $('preview').alt = `Your picture, captioned: ${value.text}`;
        break;
      }
    } finally {
      if (running === mine) {
        $('stop').disabled = true;
        if (captionBox.textContent === '') captionBox.innerHTML = '<span class="quiet">No caption.</span>';
      }
    }
    facts();
    if ($('heat-on').checked) await heat();
  });
}

/** Has the GPU's programs made while nobody waits for them. */
async function warmUp() {
  const blank = new ImageData(1, 1);
  running = new AbortController();
  await guarded(() => model.captionText(blank, { maxNewTokens: 2, signal: running.signal }));
}

$('stop').onclick = () => running?.abort();

async function heat() {
  const canvas = $('heat');
  if (!$('heat-on').checked || !model || !picture) {
    canvas.hidden = true;
    return;
  }
  const of = picture;
  await guarded(async () => {
    const { width, height, values } = await model.attention(picture, { layer: Number($('layer').value) });
    if (of !== picture) return;
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
    say(`The camera cannot be used: ${error.message}`, true);
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

$('match').onsubmit = (event) => {
  event.preventDefault();
  guarded(async () => {
    const texts = [...new Set($('texts').value.split('\n').map((t) => t.trim()).filter(Boolean))];
    if (texts.length === 0) return say('Write at least one text.', true);
    const of = picture;
    const [row] = await model.match([picture], texts, { mode: $('mode').value });
    if (of !== picture) return;
    const ranked = texts.map((text, i) => [text, row[i]]).sort((a, b) => b[1] - a[1]);
    $('ranking').replaceChildren(
      ...ranked.map(([text, share]) => {
        const item = document.createElement('li');
        item.style.setProperty('--share', share);
        const [name, percent] = [document.createElement('span'), document.createElement('span')];
        name.textContent = text;
        percent.textContent = `${(100 * share).toFixed(1)} %`;
        item.append(name, percent);
        return item;
      }),
    );
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
      button.onclick = () => guarded(async () => show(await blobOf(file)));
      const image = new Image(64, 64);
      image.src = address(file);
      image.alt = nameOf(file);
      image.loading = 'lazy';
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
  if (query === '') return;
  guarded(async () => {
    const items = [...gallery.children];
    const mine = model;
    for (const [i, { dataset: { file } }] of items.entries()) {
      if (embeddings.has(file)) continue;
      $('found').textContent = `Reading the pictures: ${i + 1} of ${items.length}`;
      const embedding = unit(await mine.embedImage(await blobOf(file)));
      if (mine !== model) return;
      embeddings.set(file, embedding);
    }
    const text = unit(await mine.embedText(query));
    const score = (item) => embeddings.get(item.dataset.file).reduce((sum, x, i) => sum + x * text[i], 0);
    const scored = items.map((item) => [score(item), item]).sort((a, b) => b[0] - a[0]);
    gallery.append(...scored.map(([, item]) => item));
    scored.forEach(([, item], i) => item.classList.toggle('best', i === 0));
    $('found').textContent = `Best first for “${query}”: ${scored.slice(0, 3).map(([, item]) => nameOf(item.dataset.file)).join(', ')}, …`;
    facts();
  });
};

// Start.

$('model').onsubmit = (event) => {
  event.preventDefault();
  load($('url').value.trim());
};
$('clear').onclick = async () => {
  try {
    await QLlama.clearCache();
    $('cleared').textContent = 'Cleared: the next visit fetches the model anew.';
  } catch (error) {
    $('cleared').textContent = words(error);
  }
};

fillGallery().catch(() => ($('found').textContent = 'The gallery could not be fetched.'));
const supported = await QLlama.supported();
if (supported.ok) {
  const asked = new URLSearchParams(location.search).get('model');
  if (asked) $('url').value = asked;
  await load($('url').value);
} else {
  $('missing').hidden = false;
  // The page has the list of browsers that the reason ends with where WebGPU is missing.
  const reason = supported.reason.split('. ')[0];
  $('missing-reason').textContent = `${reason[0].toUpperCase()}${reason.slice(1)}.`;
  document.querySelector('main').hidden = true;
  say('');
}
// The page itself without a network, from the second visit on.
navigator.serviceWorker?.register('offline.js').catch(() => {});
