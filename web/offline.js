// The page itself without a network: a service worker that asks the network first and answers from what it keeps where
// there is none. Models are not its business; files.js keeps those.

const CACHE = 'qllama-page';
const PAGE = ['./', 'index.html', 'demo.css', 'demo.js', 'icon.svg', 'gallery.json', 'qllama.js', 'errors.js', 'hub.js', 'past.js', 'pictures.js', 'place.js', 'values.js', 'worker.js', 'files.js', 'notes.js', 'sha256.js', 'wasm/qllama.js', 'wasm/qllama_bg.wasm'].map(
  (path) => new URL(path, self.registration.scope).href,
);

self.addEventListener('install', (event) => {
  const keep = async () => {
    const cache = await caches.open(CACHE);
    await cache.addAll(PAGE);
    // The gallery's pictures, too: who comes back without a network finds all of it.
    const files = await (await cache.match(new URL('gallery.json', self.registration.scope))).json();
    await cache.addAll(files.map((file) => new URL(`models/emoji-tiny/pictures/${file}`, self.registration.scope)));
    await self.skipWaiting();
  };
  event.waitUntil(keep());
});

self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));

self.addEventListener('fetch', (event) => {
  const url = event.request.url.replace(/[?#].*$/, '');
  const picture = url.startsWith(self.registration.scope) && url.endsWith('.png');
  if (event.request.method !== 'GET' || !(PAGE.includes(url) || picture)) return;
  event.respondWith(
    (async () => {
      const cache = await caches.open(CACHE);
      try {
        const response = await fetch(event.request);
        if (response.ok) event.waitUntil(cache.put(url, response.clone()));
        return response;
      } catch (error) {
        const kept = await cache.match(url);
        if (kept) return kept;
        throw error;
      }
    })(),
  );
});
