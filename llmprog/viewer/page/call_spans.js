// When calls were under way: their spans of time, and how many there were at a time.
//
// Both are kept up while a run goes on. What is new changes nothing before some moment, the `since` of what follows: all
// that was found for the time before it stays, so that a run of many thousand calls is followed at the cost of its news.

/**
 * When a call ended, in seconds since the run began.
 * @param {object} call of a `RunModel`
 * @param {number} cutOffS when it ended if it was cut off or is under way
 */
export function endOf(call, cutOffS) {
  if (isCutOff(call)) {
    return Math.max(call.sent_at, cutOffS);
  }
  const { duration_s: tookS } = call.outcome;
  // Earlier runs did not keep how long a call took that failed, but when its attempts did: it lasted until the last one.
  return Math.max(call.sent_at, typeof tookS === "number" ? call.sent_at + tookS : (call.attempts.at(-1)?.at ?? 0));
}

/** Whether nobody knows when a call ended, or it has not. */
export function isCutOff({ outcome }) {
  return outcome === null || (typeof outcome.duration_s !== "number" && outcome.state === "unknown");
}

/**
 * The calls as spans of time, in the order of sending. They are calls that this run made: those taken over from a run
 * that it was forked from were sent before it began.
 * @param {Iterable<object>} calls of a `RunModel`
 * @param {number} nowS seconds since the run began at which what is under way is cut off
 * @returns {{id: number, start: number, end: number, isOpen: boolean, session: number, call: object}[]} `isOpen`: it has
 *   no outcome
 */
export function spansOf(calls, nowS) {
  const spans = [];
  const lastOf = new Map();
  for (const call of calls) {
    const session = call.session ?? 1;
    const span = { id: call.id, start: call.sent_at, end: endOf(call, 0), isOpen: call.outcome === null, session, call };
    lastOf.set(session, Math.max(lastOf.get(session) ?? 0, span.end));
    spans.push(span);
  }
  const latest = Math.max(...lastOf.keys());
  for (const span of spans) {
    if (isCutOff(span.call)) {
      // What was cut off ended when nobody knows: at the latest with the run, or as its session is last heard of.
      span.end = endOf(span.call, span.session === latest ? nowS : lastOf.get(span.session));
    }
  }
  return spans.sort(byStart);
}

/** The order of sending. */
export function byStart(one, other) {
  return one.start - other.start || one.id - other.id;
}

/** The order of ending. */
export function byEnd(one, other) {
  return one.end - other.end || one.start - other.start || one.id - other.id;
}

/** How many of a sorted list come before the first that `isLater` holds for; it holds for all after that one, too. */
export function countBefore(list, isLater, low = 0, high = list.length) {
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isLater(list[middle])) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

/** How many calls were under way, as steps: `counts[i]` of them from `moments[i]` to the next. */
export class Concurrency {
  moments = [];
  counts = [];

  /** The most that were under way at a time. */
  get most() {
    return this.counts.reduce((high, count) => Math.max(high, count), 0);
  }

  /**
   * Count anew from a moment on.
   * @param {{start: number, end: number}[]} sent all spans, by their starts
   * @param {{start: number, end: number}[]} ended the same, by their ends
   * @param {number} since
   */
  lay(sent, ended, since) {
    const { moments, counts } = this;
    moments.length = counts.length = countBefore(moments, (moment) => moment >= since);
    let count = counts.at(-1) ?? 0;
    let nextSent = countBefore(sent, (span) => span.start >= since);
    let nextEnded = countBefore(ended, (span) => span.end >= since);
    while (nextEnded < ended.length) {
      const begins = nextSent < sent.length && sent[nextSent].start <= ended[nextEnded].end;
      const span = begins ? sent[nextSent++] : ended[nextEnded++];
      if (span.end > span.start) {
        const at = begins ? span.start : span.end;
        count += begins ? 1 : -1;
        if (moments.length === 0 && at > 0) {
          moments.push(0);
          counts.push(0);
        }
        if (moments.at(-1) === at) {
          counts[counts.length - 1] = count;
        } else {
          moments.push(at);
          counts.push(count);
        }
      }
    }
  }
}
