// What queues held and did in the last ten minutes, from the server; where it keeps no samples, from what we have seen.

import { Refused, get } from "./server.js";

const SECONDS = 5;
const SAMPLES = 120;
const WINDOW = 5000;

const samples = new Map();
const seen = new Map();
let ours = false;

const went = (queue) => queue.dequeued + queue.acked + queue.expired + queue.dead_lettered + queue.cleared + queue.redriven;

/** The age of the oldest ready message in seconds, if the server tells it. */
export const ageOf = (queue) => queue.oldest_ready_age_seconds;

/** Takes note of queues as the server has just described them. */
export function note(queues, now = performance.now()) {
  for (const queue of queues) {
    const out = went(queue);
    const point = { now, out, came: queue.messages + out };
    const points = (seen.get(queue.name) ?? []).filter((each) => now - each.now <= WINDOW && each.came <= point.came);
    points.push(point);
    seen.set(queue.name, points);
    if (ours) noteSample(queue, point);
  }
}

function noteSample(queue, point) {
  const kept = samples.get(queue.name) ?? { messages: [], ready: [], in: [], out: [], age: [], last: null };
  const { last } = kept;
  if (last && point.now - last.now < SECONDS * 1000) return;
  const row = { messages: queue.messages, ready: queue.ready, in: last ? point.came - last.came : 0, out: last ? point.out - last.out : 0, age: Math.round(ageOf(queue) ?? 0) };
  for (const [column, value] of Object.entries(row)) {
    kept[column].push(Math.max(value, 0));
    if (kept[column].length > SAMPLES) kept[column].shift();
  }
  kept.last = point;
  samples.set(queue.name, kept);
}

/** Messages a second that came into and went out of a queue lately; null as long as that is not known. */
export function rates(name) {
  const points = seen.get(name) ?? [];
  if (points.length < 2) return { in: null, out: null };
  const first = points[0], last = points[points.length - 1];
  const seconds = (last.now - first.now) / 1000;
  return { in: (last.came - first.came) / seconds, out: Math.max(last.out - first.out, 0) / seconds };
}

/** Gets the samples of these queues. */
export async function load(names) {
  if (ours || !names.length) return;
  try {
    // The server takes an address of 2 KiB: 20 names of 80 letters fit.
    for (let at = 0; at < names.length; at += 20) {
      const told = await get("/stats/history", { queue: names.slice(at, at + 20).join(","), limit: 100 });
      for (const [name, columns] of Object.entries(told.queues)) samples.set(name, columns);
    }
  } catch (error) {
    if (!(error instanceof Refused && error.problem === "not-with-engine")) throw error;
    ours = true;
  }
}

export const historyOf = (name) => samples.get(name) ?? { messages: [], ready: [], in: [], out: [], age: [] };

/** Forgets everything: another credential may know of other queues. */
export function forget() {
  samples.clear();
  seen.clear();
}

export { SAMPLES, SECONDS };
