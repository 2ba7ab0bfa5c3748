// When calls were under way: their spans, lanes and number at a time, and the chain of calls that a run's time went into.
//
// The critical path is found backwards. It ends with the call that ended last. Each call before it is the one that
// ended last before its successor was sent: of all that the successor may have waited for, it is what it waited for
// longest. A run does not record what a call waited for, so this is the latest that it can have been. Between two calls
// of the path the run was waiting: for its own computation where no call was under way, else for a place among them.
//
// A run that was resumed has several sessions of work. From the end of the last call of those before to the first call
// of the next, nobody was at work on it: that is a pause, and no part of the time that the path is a share of.

// Times are kept to the millisecond; a call that was sent when another ended may seem to be sent just before.
const ROUNDING_S = 0.002;

/**
 * The calls as spans of time, in the order of sending. They are calls that this run made: those taken over from a run
 * that it was forked from were sent before it began.
 * @param {Iterable<object>} calls of a `RunModel`
 * @param {number} nowS seconds since the run began at which what is under way is cut off
 * @returns {{id: number, start: number, end: number, isOpen: boolean, session: number}[]} `isOpen`: it has no outcome
 */
export function spansOf(calls, nowS) {
  const spans = [];
  const isCutOff = new Set();
  const lastOf = new Map();
  for (const call of calls) {
    const length = call.outcome?.duration_s;
    const isOpen = call.outcome === null;
    const session = call.session ?? 1;
    const end = call.sent_at + Math.max(length ?? 0, 0);
    const span = { id: call.id, start: call.sent_at, end, isOpen, session };
    if (typeof length !== "number" && (isOpen || call.outcome.state === "unknown")) {
      isCutOff.add(span);
    }
    lastOf.set(session, Math.max(lastOf.get(session) ?? 0, end));
    spans.push(span);
  }
  const latest = Math.max(...lastOf.keys());
  for (const span of isCutOff) {
    // What was cut off ended when nobody knows: at the latest with the run, or as its session is last heard of.
    span.end = Math.max(span.start, span.session === latest ? nowS : lastOf.get(span.session));
  }
  return spans.sort((one, other) => one.start - other.start || one.id - other.id);
}

/**
 * The pauses between sessions, as the head of this module defines them.
 * @param {{start: number, end: number, session: number}[]} spans
 * @returns {{start: number, end: number}[]} in order
 */
function pausesOf(spans) {
  const sessions = new Map();
  for (const { start, end, session } of spans) {
    const known = sessions.get(session) ?? { start, end };
    sessions.set(session, { start: Math.min(known.start, start), end: Math.max(known.end, end) });
  }
  const pauses = [];
  let until = null;
  for (const [, { start, end }] of [...sessions].sort(([one], [other]) => one - other)) {
    if (until !== null && start > until + ROUNDING_S) {
      pauses.push({ start: until, end: start });
    }
    until = Math.max(until ?? 0, end);
  }
  return pauses;
}

/**
 * The critical path through spans, as the head of this module defines it.
 * @param {{id: number, start: number, end: number, session: number}[]} spans
 * @param {number} wallS seconds from the run's begin to its end, or to now
 * @returns {{ids: number[], gaps: {start: number, end: number, isIdle: boolean}[], callsS: number, waitingS: number,
 *   pauses: {start: number, end: number}[], workS: number}} `ids` in the order of time; a gap `isIdle` if no call at all
 *   was under way in it; `callsS`, `waitingS` and the pauses add up to the time from the run's begin to the end of the
 *   last call; `workS`: seconds that the run took, without its pauses
 */
export function criticalPath(spans, wallS) {
  const byEnd = [...spans].sort((one, other) => one.end - other.end || one.start - other.start || one.id - other.id);
  const path = [];
  for (let index = byEnd.length - 1; index >= 0; index = lastBefore(byEnd, index)) {
    path.push(byEnd[index]);
  }
  path.reverse();
  const busy = busySpans(spans);
  const pauses = pausesOf(spans);
  const gaps = [];
  let [callsS, waitingS, until] = [0, 0, 0];
  const waitTo = (moment) => {
    if (moment > until + ROUNDING_S) {
      gaps.push({ start: until, end: moment, isIdle: !overlapsAny(busy, until, moment) });
    }
    waitingS += Math.max(0, moment - until);
    until = Math.max(until, moment);
  };
  for (const span of path) {
    for (const pause of pauses.filter(({ start, end }) => until < end && start < span.start)) {
      waitTo(pause.start);
      until = pause.end;
    }
    waitTo(span.start);
    callsS += span.end - until;
    until = span.end;
  }
  const pausedS = pauses.reduce((sum, pause) => sum + pause.end - pause.start, 0);
  return { ids: path.map((span) => span.id), gaps, callsS, waitingS, pauses, workS: Math.max(wallS, until) - pausedS };
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
