// When calls were under way: their spans, lanes and number at a time, and the chain of calls that a run's time went into.
//
// The critical path is found backwards. It ends with the call that ended last. Each call before it is the one that
// ended last before its successor was sent: of all that the successor may have waited for, it is what it waited for
// longest. A run does not record what a call waited for, so this is the latest that it can have been. Between two calls
// of the path the run was waiting: for its own computation where no call was under way, else for a place among them.

// Times are kept to the millisecond; a call that was sent when another ended may seem to be sent just before.
const ROUNDING_S = 0.002;

/**
 * The calls as spans of time, in the order of sending.
 * @param {Iterable<object>} calls of a `RunModel`
 * @param {number} nowS seconds since the run began at which what is under way is cut off
 * @returns {{id: number, start: number, end: number, isOpen: boolean}[]} `isOpen`: it has no outcome
 */
export function spansOf(calls, nowS) {
  const spans = [];
  for (const call of calls) {
    const length = call.outcome?.duration_s;
    const isOpen = call.outcome === null;
    const isTimed = typeof length === "number";
    // What was cut off ended when nobody knows: at the latest with the run.
    const end = isTimed ? call.sent_at + length : isOpen || call.outcome.state === "unknown" ? nowS : call.sent_at;
    spans.push({ id: call.id, start: call.sent_at, end: Math.max(end, call.sent_at), isOpen });
  }
  return spans.sort((one, other) => one.start - other.start || one.id - other.id);
}

/**
 * The critical path through spans, as the head of this module defines it.
 * @param {{id: number, start: number, end: number}[]} spans
 * @param {number} wallS seconds that the run took
 * @returns {{ids: number[], gaps: {start: number, end: number, isIdle: boolean}[], callsS: number, waitingS: number,
 *   wallS: number}} `ids` in the order of time; a gap `isIdle` if no call at all was under way in it; `callsS` and
 *   `waitingS` add up to the time from the run's begin to the end of the last call
 */
export function criticalPath(spans, wallS) {
  const byEnd = [...spans].sort((one, other) => one.end - other.end || one.start - other.start || one.id - other.id);
  const path = [];
  for (let index = byEnd.length - 1; index >= 0; index = lastBefore(byEnd, index)) {
    path.push(byEnd[index]);
  }
  path.reverse();
  const busy = busySpans(spans);
  const gaps = [];
  let [callsS, waitingS, until] = [0, 0, 0];
  for (const span of path) {
    if (span.start > until + ROUNDING_S) {
      gaps.push({ start: until, end: span.start, isIdle: !overlapsAny(busy, until, span.start) });
    }
    waitingS += Math.max(0, span.start - until);
    callsS += span.end - Math.max(until, span.start);
    until = span.end;
  }
  return { ids: path.map((span) => span.id), gaps, callsS, waitingS, wallS: Math.max(wallS, until) };
}

/**
 * The lane of each span: the first in which no other span is under way.
 * @param {{start: number, end: number}[]} spans in the order of their starts
 * @returns {{lanes: Int32Array, count: number}}
 */
export function lanesOf(spans) {
  const lanes = new Int32Array(spans.length);
  const busy = new Heap((one, other) => one.end - other.end || one.lane - other.lane);
  const free = new Heap((one, other) => one - other);
  let count = 0;
  spans.forEach((span, index) => {
    while (busy.size > 0 && busy.first.end <= span.start) {
      free.push(busy.pop().lane);
    }
    const lane = free.size > 0 ? free.pop() : count;
    count = Math.max(count, lane + 1);
    lanes[index] = lane;
    busy.push({ end: span.end, lane });
  });
  return { lanes, count };
}

/**
 * How many calls were under way, as steps.
 * @param {{start: number, end: number}[]} spans
 * @returns {{at: number, count: number}[]} from each moment to the next; the first is at 0 if a span is there
 */
export function concurrencyOf(spans) {
  const changes = spans.flatMap((span) => (span.end > span.start ? [[span.start, 1], [span.end, -1]] : []));
  changes.sort((one, other) => one[0] - other[0]);
  const steps = changes.length > 0 && changes[0][0] > 0 ? [{ at: 0, count: 0 }] : [];
  let count = 0;
  changes.forEach(([at, change], index) => {
    count += change;
    if (changes[index + 1]?.[0] !== at) {
      steps.push({ at, count });
    }
  });
  return steps;
}

/** The index of the span that ended last before the one at `at` began; -1 if none did. */
function lastBefore(byEnd, at) {
  const { start } = byEnd[at];
  let [low, high] = [0, at];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (byEnd[middle].end <= start + ROUNDING_S) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  let found = low - 1;
  // Calls that took no time, recalled ones, were not waited for by others that were sent with them.
  while (found >= 0 && byEnd[found].start >= start) {
    found -= 1;
  }
  return found;
}

/** Spans joined where they touch, in order. */
function busySpans(spans) {
  const joined = [];
  for (const { start, end } of [...spans].sort((one, other) => one.start - other.start)) {
    const last = joined.at(-1);
    if (last !== undefined && start <= last.end) {
      last.end = Math.max(last.end, end);
    } else if (end > start) {
      joined.push({ start, end });
    }
  }
  return joined;
}

function overlapsAny(joined, start, end) {
  return joined.some((span) => span.start < end - ROUNDING_S && span.end > start + ROUNDING_S);
}

/** A binary heap: the least of what is in it, by `compare`, comes out first. */
class Heap {
  #items = [];
  #compare;

  constructor(compare) {
    this.#compare = compare;
  }

  get size() {
    return this.#items.length;
  }

  get first() {
    return this.#items[0];
  }

  push(item) {
    const items = this.#items;
    let place = items.push(item) - 1;
    while (place > 0) {
      const above = (place - 1) >> 1;
      if (this.#compare(items[above], item) <= 0) {
        break;
      }
      items[place] = items[above];
      place = above;
    }
    items[place] = item;
  }

  pop() {
    const items = this.#items;
    const first = items[0];
    const item = items.pop();
    if (items.length > 0) {
      let place = 0;
      for (let below = 1; below < items.length; below = 2 * place + 1) {
        if (below + 1 < items.length && this.#compare(items[below + 1], items[below]) < 0) {
          below += 1;
        }
        if (this.#compare(item, items[below]) <= 0) {
          break;
        }
        items[place] = items[below];
        place = below;
      }
      items[place] = item;
    }
    return first;
  }
}
