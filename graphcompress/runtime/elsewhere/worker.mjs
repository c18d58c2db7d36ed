// worker.py for JavaScript: onnxruntime-web (WebAssembly) or onnxruntime-node, of the folder in which Node was started. The protocol is that of wire.py and worker.py.
import fs from 'node:fs';
import os from 'node:os';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const PROTOCOL = 1, KEPT = 256 * 2 ** 20, KEPT_MODELS = 4, MAGIC = Buffer.from('gcw' + PROTOCOL);
const out = fs.openSync('/dev/stdout', 'w');
console.log = console.info = console.debug = console.error;

// --- frames ---
const TABLE = Int32Array.from({ length: 256 }, (_, n) => { for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1; return n; });
const crc = (bytes, seed = 0) => { let c = ~seed; for (const b of bytes) c = TABLE[(c ^ b) & 255] ^ (c >>> 8); return ~c; };
const pause = new Int32Array(new SharedArrayBuffer(4));
function again(call) { for (;;) try { return call(); } catch (e) { if (e.code === 'EOF') return 0; if (e.code !== 'EAGAIN') throw e; Atomics.wait(pause, 0, 0, 1); } }
function take(n, mayEnd = false) {
  const bytes = Buffer.alloc(n);
  for (let k = 0; k < n;) {
    const got = again(() => fs.readSync(0, bytes, k, n - k, null));
    if (!got) { if (mayEnd && !k) return null; process.exit(1); }
    k += got;
  }
  return bytes;
}
function put(bytes) { for (let k = 0; k < bytes.length;) k += again(() => fs.writeSync(out, bytes, k)); }
function send(head, parts = []) {
  const text = Buffer.from(JSON.stringify(head)), start = Buffer.alloc(16);
  MAGIC.copy(start); start.writeUInt32LE(text.length, 4); start.writeBigUInt64LE(BigInt(parts.reduce((n, p) => n + p.length, 0)), 8);
  let sum = crc(text);
  put(Buffer.concat([start, text]));
  for (const part of parts) { put(part); sum = crc(part, sum); }
  const end = Buffer.alloc(4); end.writeInt32LE(sum); put(end);
}
function receive() {
  const start = take(16, true);
  if (!start) return null;
  if (!start.subarray(0, 4).equals(MAGIC)) { console.error('what arrived is no message of version ' + PROTOCOL); process.exit(1); }
  const text = take(start.readUInt32LE(4)), body = take(Number(start.readBigUInt64LE(8)));
  if (crc(body, crc(text)) !== take(4).readInt32LE()) { console.error('a message was damaged on its way'); process.exit(1); }
  return [JSON.parse(text.toString()), body];
}

// --- values ---
const KINDS = { float32: ['<f4', Float32Array, 'float'], float64: ['<f8', Float64Array, 'double'], int64: ['<i8', BigInt64Array], uint64: ['<u8', BigUint64Array], int32: ['<i4', Int32Array],
  uint32: ['<u4', Uint32Array], int16: ['<i2', Int16Array], uint16: ['<u2', Uint16Array], int8: ['|i1', Int8Array], uint8: ['|u1', Uint8Array], bool: ['|b1', Uint8Array], float16: ['<f2', globalThis.Float16Array ?? Uint16Array] };
const BY_CODE = Object.fromEntries(Object.entries(KINDS).map(([type, [code, Kind]]) => [code, [type, Kind]]));
class Refused extends Error { constructor(kind, text) { super(text); this.kind = kind; } }
function arraysOf(head, body) {
  let begin = 0;
  return (head.arrays ?? []).map(([code, shape]) => {
    if (!(code in BY_CODE)) throw new Refused('DataError', 'onnxruntime-web takes no arrays of type ' + code);
    const [type, Kind] = BY_CODE[code], bytes = shape.reduce((a, b) => a * b, 1) * Kind.BYTES_PER_ELEMENT;
    const copy = new Uint8Array(bytes); copy.set(body.subarray(begin, begin + bytes)); begin += bytes;
    return new ort.Tensor(type, new Kind(copy.buffer), shape);
  });
}
const unpack = (tree, arrays) => 'strings' in tree ? new ort.Tensor('string', tree.strings, tree.shape) : arrays[tree.array];
function pack(tensor, parts, described) {
  if (tensor.type === 'string') return { strings: [...tensor.data], shape: tensor.dims };
  if (!(tensor.type in KINDS)) throw new Refused('ModelError', 'an output of type ' + tensor.type + ' cannot be sent');
  described.push([KINDS[tensor.type][0], tensor.dims]);
  parts.push(Buffer.from(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength));
  return { array: parts.length - 1 };
}
const says = error => String(error?.message ?? error).replace(/\s+/g, ' ').slice(0, 400);
const declared = values => values.map(v => v.isTensor ? [v.name, `tensor(${KINDS[v.type]?.[2] ?? v.type})`, v.shape] : [v.name, 'seq', []]);

// --- requests ---
let ort = null, runtime = '';
const tensors = new Map(), models = new Map(), sessions = new Map();
async function load() {
  if (ort) return;
  const require = createRequire(process.cwd() + '/');
  for (const name of ['onnxruntime-web', 'onnxruntime-node']) {
    let path;
    try { path = require.resolve(name); } catch { continue; }
    const module = await import(pathToFileURL(path));
    ort = module.default?.InferenceSession ? module.default : module; runtime = name;
    if (runtime === 'onnxruntime-web') { ort.env.wasm.numThreads = 1; ort.env.logLevel = 'fatal'; }
    return;
  }
  throw new Refused('RuntimeUnavailable', `Neither onnxruntime-web nor onnxruntime-node is installed in ${process.cwd()}: npm install onnxruntime-web there, or set the place's folder.`);
}
const provider = asked => runtime === 'onnxruntime-web' && asked === 'cpu' ? 'wasm' : asked;  // which is its CPU provider
const latest = (map, key, value) => { map.delete(key); map.set(key, value); };
async function open(head) {
  if (!models.has(head.model)) return [{ missing: [head.model] }];
  await load();
  if (head.threads > 1) throw new Refused('UsageError', `${runtime} runs with one thread here, and ${head.threads} were asked for: leave out --threads.`);
  latest(models, head.model, models.get(head.model));
  const begin = performance.now();
  let session;
  try {
    session = await ort.InferenceSession.create(models.get(head.model), { executionProviders: [provider(head.provider)], intraOpNumThreads: 1, extra: head.config });
  } catch (error) { throw new Refused('ModelError', `${runtime} cannot load ${head.label}: ${says(error)}`); }
  sessions.set(head.session, { session, label: head.label, provider: head.provider });
  return [{ inputs: declared(session.inputMetadata), outputs: declared(session.outputMetadata), seconds: (performance.now() - begin) / 1000 }];
}
async function compute(head, arrays) {
  const { session, label } = sessions.get(head.session), feeds = head.op === 'run' ? [head.feed] : head.feeds;
  for (const [digest, tree] of Object.entries(head.fresh)) tensors.set(digest, unpack(tree, arrays));
  const digests = [...new Set(feeds.flatMap(Object.values))], missing = digests.filter(d => !tensors.has(d));
  if (missing.length) return [{ missing }];
  for (const digest of digests) latest(tensors, digest, tensors.get(digest));
  const taken = feeds.map(feed => Object.fromEntries(Object.entries(feed).map(([name, digest]) => [name, tensors.get(digest)])));
  const size = tensor => tensor.type === 'string' ? 8 * tensor.size : tensor.data.byteLength;
  let total = [...tensors.values()].reduce((n, t) => n + size(t), 0);
  for (const [digest, tensor] of tensors) { if (total <= KEPT || tensors.size === 1) break; tensors.delete(digest); total -= size(tensor); }
  try {
    if (head.op === 'time') {
      const begin = performance.now();
      for (let k = 0; k < head.repeats; k++) for (const feed of taken) await session.run(feed);
      return [{ wall: (performance.now() - begin) / 1000 / head.repeats, cpu: null }];
    }
    const values = await session.run(taken[0]), parts = [], described = [];
    return [{ values: session.outputNames.map(name => [name, pack(values[name], parts, described)]), arrays: described }, parts];
  } catch (error) {
    if (error instanceof Refused) throw error;
    throw new Refused('ModelError', `${runtime} cannot run ${label}: ${says(error)}`);
  }
}
function noise() {
  const seconds = [];
  for (let k = 0; k < 200; k++) { const begin = performance.now(); let x = 0; for (let i = 0; i < 300000; i++) x += Math.sqrt(i); seconds.push((performance.now() - begin) / 1000 + 0 * x); }
  return seconds;
}
async function answer(head, body) {
  switch (head.op) {
    case 'model':
      if (head.files.length > 1) throw new Refused('ModelError', 'onnxruntime-web takes models of less than 2 GiB');
      latest(models, head.digest, new Uint8Array(body));
      for (const digest of models.keys()) { if (models.size <= KEPT_MODELS) break; models.delete(digest); }
      return [{}];
    case 'describe':
      await load();
      return [{ runtime, version: ort.env.versions[runtime === 'onnxruntime-web' ? 'web' : 'node'] ?? ort.env.versions.common, provider: head.provider, usable: ['cpu'],
        python: null, memory: os.totalmem(), machine: runtime === 'onnxruntime-web' ? 'wasm32' : process.arch, system: os.type(), cpu: os.cpus()[0]?.model ?? '', flags: [], cores: 1, engine: `Node ${process.version}` }];
    case 'noise': return [{ seconds: noise() }];
    case 'open': return open(head);
    case 'run': case 'time': return compute(head, arraysOf(head, body));
    case 'state': return [{ providers: [sessions.get(head.session).provider], assignment: null }];
    case 'memory': return [{ peak: process.resourceUsage().maxRSS * 1024 }];
    case 'close':
      await sessions.get(head.session)?.session.release();
      sessions.delete(head.session);
      return [{}];
  }
  throw new Refused('', 'a request that nothing answers: ' + head.op);
}

send({ protocol: PROTOCOL, beat: null });
for (let message; (message = receive());) {
  let head, parts;
  try { [head, parts = []] = await answer(...message); }
  catch (error) { head = { error: error instanceof Refused ? error.kind : '', text: says(error) }; parts = []; }
  send(head, parts);
}
process.exit(0);
