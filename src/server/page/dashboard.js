// The engine's dashboard: reads /metrics once a second and draws what changed.

const $ = (id) => document.getElementById(id);
const PERIOD_MS = 1000;
const READINGS = 180;

/** Prometheus' text format: name -> [{labels, value}]. */
export function parseMetrics(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
    if (!samples.has(found[1])) samples.set(found[1], []);
    samples.get(found[1]).push({ labels, value: Number(found[3]) });
  }
  return samples;
}

const value = (samples, name) => samples?.get(name)?.[0].value;

/** By how much a counter has grown per second; undefined where it is unknown. */
function rate(now, before, name) {
  const grown = value(now.samples, name) - value(before?.samples, name);
  // A server that has started anew counts from zero.
  return grown >= 0 ? (grown * 1000) / (now.at - before.at) : undefined;
}

const number = (v, digits = 0) => v.toLocaleString("en", { maximumFractionDigits: digits });
const percent = (v) => `${(100 * v).toFixed(v < 0.1 ? 1 : 0)} %`;
const count = (v) => number(v);

const TILES = [
  ["Generated tok/s", (n, b) => rate(n, b, "vllm:generation_tokens_total"), (v) => number(v, 1)],
  ["Prompt tok/s", (n, b) => rate(n, b, "vllm:prompt_tokens_total"), (v) => number(v, 1)],
  ["Running requests", (n) => value(n.samples, "vllm:num_requests_running"), count],
  ["Waiting requests", (n) => value(n.samples, "vllm:num_requests_waiting"), count],
  ["Decode rows", (n) => value(n.samples, "nanoflow:step_decode_rows"), count],
  ["Prefill rows", (n) => value(n.samples, "nanoflow:step_rows") - value(n.samples, "nanoflow:step_decode_rows"), count],
  ["KV cache used", (n) => value(n.samples, "vllm:kv_cache_usage_perc"), percent],
  ["Steps per second", (n, b) => rate(n, b, "nanoflow:steps_total"), (v) => number(v, 1)],
  ["MFU", (n, b) => rate(n, b, "nanoflow:model_flops_total") / value(n.samples, "nanoflow:peak_flops"), percent],
  ["Device power", (n, b) => rate(n, b, "nanoflow:energy_joules_total"), (v) => `${number(v)} W`],
  ...["gemm", "attention_decode", "attention_prefill", "network", "other"].map((kind) => [
    `Time: ${kind.replace("_", " ")}`,
    (n, b) => share(n, b, kind),
    percent,
  ]),
];

/** Of the device time of the timed steps since the last reading, the part of one kind of operation. */
function share(now, before, kind) {
  const name = "nanoflow:step_seconds_total";
  const grown = (wanted) =>
    [[now, 1], [before, -1]].reduce((sum, [reading, sign]) => sum + sign * (reading?.samples.get(name) ?? [])
      .filter(({ labels }) => !wanted || labels.kind === wanted)
      .reduce((part, sample) => part + sample.value, 0), 0);
  return grown() > 0 ? grown(kind) / grown() : undefined;
}

class Tile {
  constructor([name, read, show]) {
    Object.assign(this, { read, show, values: [] });
    this.node = document.createElement("div");
    this.node.className = "tile";
    this.node.hidden = true; // until the server exports it
    for (const part of ["name", "value"]) {
      this[part] = this.node.appendChild(document.createElement("div"));
      this[part].className = part;
    }
    this.name.textContent = name;
    const svg = this.node.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "svg"));
    svg.setAttribute("viewBox", `0 0 ${READINGS - 1} 20`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    this.line = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "polyline"));
    $("tiles").append(this.node);
  }
  update(now, before) {
    const latest = this.read(now, before);
    if (!Number.isFinite(latest)) return;
    this.node.hidden = false;
    this.value.textContent = this.show(latest);
    this.values.push(latest);
    if (this.values.length > READINGS) this.values.shift();
    const most = Math.max(...this.values, 1e-9);
    const from = READINGS - this.values.length;
    this.line.setAttribute("points", this.values.map((v, i) => `${from + i},${(19 - (18 * v) / most).toFixed(1)}`).join(" "));
  }
}

const tiles = TILES.map((tile) => new Tile(tile));
let before = null;

function state(text, className) {
  if ($("state").textContent === text) return;
  $("state").textContent = text;
  $("state").className = className;
}

async function read() {
  try {
    const response = await fetch("metrics", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (response.status === 503) return state("loading the model", "");
    const now = { at: performance.now(), samples: parseMetrics(await response.text()) };
    for (const tile of tiles) tile.update(now, before);
    before = now;
    $("model").textContent = now.samples.get("vllm:num_requests_running")?.[0].labels.model_name ?? "";
    state("serving", "up");
  } catch {
    before = null;
    state("the server does not answer; trying again", "down");
  }
}

for (;;) {
  if (!document.hidden) await read();
  await new Promise((resume) => setTimeout(resume, PERIOD_MS));
}
