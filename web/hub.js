// Names on the Hugging Face hub: `hf:org/name`, `hf:org/name@revision`, `hf:org/name/file.gguf@revision`.

import { wrong } from './errors.js';

const HUB = 'https://huggingface.co';
const PLAIN = /^(?!\.)[\w.-]+$/;

/** The address of the folder or GGUF file that a name means; null for what does not begin with `hf:`. */
export function hubAddress(url, endpoint = HUB) {
  const text = String(url);
  if (!/^hf:/i.test(text)) return null;
  const [name, revision = 'main', ...more] = text.slice(3).split('@');
  const [org, model, ...file] = name.split('/');
  const parts = [org, model, ...file, ...revision.split('/')];
  const last = file[file.length - 1];
  if (more.length > 0 || !parts.every((part) => part !== undefined && PLAIN.test(part)) || (last !== undefined && !/\.gguf$/i.test(last))) {
    throw wrong(`url: ${JSON.stringify(text.slice(0, 120))}: expected hf:org/name, hf:org/name@revision or hf:org/name/file.gguf`);
  }
  return `${endpoint.replace(/\/+$/, '')}/${org}/${model}/resolve/${revision.replaceAll('/', '%2F')}/${file.join('/')}`;
}
