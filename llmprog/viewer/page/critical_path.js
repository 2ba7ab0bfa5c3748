// The chain of calls that a run's time went into.
//
// The critical path is found backwards. It ends with the call that ended last. Each call before it is the one that
// ended last before its successor was sent: of all that the successor may have waited for, it is what it waited for
// longest. A run does not record what a call waited for, so this is the latest that it can have been. Between two calls
// of the path the run was waiting: for its own computation where no call was under way, else for a place among them.
//
// A run that was resumed has several sessions of work. From the end of the last call of those before to the first call
// of the next, nobody was at work on it: that is a pause, and no part of the time that the path is a share of.

import { countBefore } from "./call_spans.js";

// Times are kept to the millisecond; a call that was sent when another ended may seem to be sent just before.
const ROUNDING_S = 0.002;

/** The critical path through spans, as the head of this module defines it; those on it have `isCritical`. */
export class CriticalPath {
  /** The spans on it, in the order of time. */
  spans = [];

  /**
   * Find it anew, where spans have come, or ended otherwise than was known, at a moment or later.
   * @param {{id: number, start: number, end: number}[]} ended all spans, by their ends
   * @param {number} since
   */
  lay(ended, since) {
    const before = this.spans;
    const found = [];
    let kept = 0;
    for (let index = ended.length - 1; index >= 0; index = lastBefore(ended, index)) {
      const span = ended[index];
      const isKnown = span.isCritical === true && span.start + ROUNDING_S < since;
      if (isKnown) {
        // What it waited for had ended before that moment, and so on back to the first.
        kept = countBefore(before, (other) => other.start > span.start);
        break;
      }
      found.push(span);
    }
    for (let index = kept; index < before.length; index += 1) {
      before[index].isCritical = false;
    }
    before.length = kept;
    for (const span of found.reverse()) {
      span.isCritical = true;
      before.push(span);
    }
  }

  /**
   * What the time of a run went into.
   * @param {{start: number, end: number, session: number}[]} spans all of them
   * @param {Concurrency} concurrency of them
   * @param {number} wallS seconds from the run's begin to its end, or to now
   * @returns {{gaps: {start: number, end: number, isIdle: boolean}[], callsS: number, waitingS: number,
   *   pauses: {start: number, end: number}[], workS: number}} a gap `isIdle` if no call at all was under way in it;
   *   `callsS`, `waitingS` and the pauses add up to the time from the run's begin to the end of the last call; `workS`:
   *   seconds that the run took, without its pauses
   */
  timesOf(spans, concurrency, wallS) {
    const pauses = pausesOf(spans);
    const gaps = [];
    let [callsS, waitingS, until, pause] = [0, 0, 0, 0];
    const waitTo = (moment) => {
      if (moment > until + ROUNDING_S) {
        gaps.push({ start: until, end: moment, isIdle: isIdle(concurrency, until, moment) });
      }
      waitingS += Math.max(0, moment - until);
      until = Math.max(until, moment);
    };
    for (const span of this.spans) {
      for (; pause < pauses.length && pauses[pause].start < span.start; pause += 1) {
        if (until < pauses[pause].end) {
          waitTo(pauses[pause].start);
          until = pauses[pause].end;
        }
      }
      waitTo(span.start);
      callsS += span.end - until;
      until = span.end;
    }
    const pausedS = pauses.reduce((sum, { start, end }) => sum + end - start, 0);
    return { gaps, callsS, waitingS, pauses, workS: Math.max(wallS, until) - pausedS };
  }
}

/** The index of the span that ended last before the one at `at` began; -1 if none did. */
function lastBefore(ended, at) {
  const { start } = ended[at];
  let found = countBefore(ended, (span) => span.end > start + ROUNDING_S, 0, at) - 1;
  // Calls that took no time, recalled ones, were not waited for by others that were sent with them.
  while (found >= 0 && ended[found].start >= start) {
    found -= 1;
  }
  return found;
}

/** Whether no call was under way from one moment to another, as far as times are kept. */
function isIdle({ moments, counts }, start, end) {
  const middle = (start + end) / 2;
  const [first, last] = [Math.min(start + ROUNDING_S, middle), Math.max(end - ROUNDING_S, middle)];
  let index = Math.max(0, countBefore(moments, (moment) => moment > first) - 1);
  while (index < moments.length && moments[index] <= last && counts[index] === 0) {
    index += 1;
  }
  return index === moments.length || moments[index] > last;
}

/**
 * The pauses between sessions, as the head of this module defines them.
 * @param {{start: number, end: number, session: number}[]} spans
 * @returns {{start: number, end: number}[]} in order
 */
function pausesOf(spans) {
  const sessions = new Map();
  let known = null;
  for (const { start, end, session } of spans) {
    if (known?.session !== session) {
      known = sessions.get(session) ?? { session, start, end };
      sessions.set(session, known);
    }
    known.start = Math.min(known.start, start);
    known.end = Math.max(known.end, end);
  }
  const pauses = [];
  let until = null;
  for (const { start, end } of [...sessions.values()].sort((one, other) => one.session - other.session)) {
    if (until !== null && start > until + ROUNDING_S) {
      pauses.push({ start: until, end: start });
    }
    until = Math.max(until ?? 0, end);
  }
  return pauses;
}
