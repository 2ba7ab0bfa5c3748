// A run's calls as a picture of time: lanes, marks, how many at a time, and the critical path.

import { Concurrency, byEnd, byStart, countBefore, endOf, isCutOff, spansOf } from "./call_spans.js";
import { CriticalPath } from "./critical_path.js";
import { Lanes } from "./call_lanes.js";
import { isTakenOver } from "./model.js";

// The colours of nodes, by their numbers; that of rate limits comes last.
const NODE_SERIES = [1, 3, 5, 4, 7, 6, 8, 2];

/**
 * The timeline of a model. It is taken in again whenever the model has changed; what came before the earliest change is
 * not laid anew.
 *
 * Bars are spans of calls, of which each knows its `call`, `lane`, `kind` (see `kindOf`), `color` and whether it
 * `isCritical`.
 */
export class Timeline {
  /** All bars, in the order of sending. */
  bars = [];
  /** Seconds from the run's begin to its end, or to now. */
  wallS = 0;
  /** How many calls are of the run that this one was forked from, which have no time in it. */
  numTakenOver = 0;
  /** How many failed attempts were followed by others, and how many of them were rate limits. */
  numAttempts = 0;
  numRateLimits = 0;
  /** Names of nodes with the numbers of their colours. */
  nodes = new Map();
  lanes = new Lanes();
  concurrency = new Concurrency();
  path = new CriticalPath();
  /** What `CriticalPath` says of the time. */
  times = { gaps: [], callsS: 0, waitingS: 0, pauses: [], workS: 0 };
  #model;
  #ended = [];
  #unended = new Set();
  #byId = new Map();
  #kinds = new Map();
  #first;
  #numTaken = 0;
  #numSessions = 0;
  #latest = 1;
  #lastS = 0;

  constructor(model) {
    this.#model = model;
  }

  /** The bar of a call, or undefined. */
  bar(id) {
    return this.#byId.get(id);
  }

  /** The bar `step` places after that of a call, in the order of sending, or undefined; the first where there is none. */
  neighbour(id, step) {
    const bar = this.bar(id);
    return this.bars[bar === undefined ? 0 : countBefore(this.bars, (other) => byStart(other, bar) >= 0) + step];
  }

  /** Whether there are bars of a kind. */
  has(kind) {
    return this.#kinds.get(kind) > 0;
  }

  /** Take in what is new in the model. */
  take() {
    const { calls, run } = this.#model;
    const [first] = calls.values();
    if (first !== this.#first || calls.size < this.#numTaken) {
      this.#forget();
    }
    let fresh = this.#scan();
    if (this.bars.length > 0 && this.#isOtherwise(fresh)) {
      this.#forget();
      fresh = this.#scan();
    }
    [this.#first, this.#numTaken] = [first, calls.size];
    const before = this.wallS;
    this.wallS = Math.max(before, run?.elapsed_s ?? 0, this.#lastS);
    if (this.#numSessions > 1 && (run.sessions ?? this.#latest) === this.#latest) {
      // The seconds that it took are those of its sessions; what is under way now is later by their pauses. A session
      // that sent nothing, since all had settled before, is no part of the picture.
      this.wallS = Math.max(this.wallS, (run.updated_at ?? 0) - (run.began_at ?? 0));
    }
    this.#lay(spansOf(fresh, this.wallS), before);
  }

  #forget() {
    this.bars = [];
    this.wallS = 0;
    this.nodes = new Map();
    [this.lanes, this.concurrency, this.path] = [new Lanes(), new Concurrency(), new CriticalPath()];
    this.#ended = [];
    this.#unended.clear();
    this.#byId.clear();
    this.#kinds.clear();
    this.#numTaken = 0;
  }

  /** Count what is counted of all calls, and find those that have no bar yet. */
  #scan() {
    const fresh = [];
    const sessions = new Set();
    let index = 0;
    this.numTakenOver = this.numAttempts = this.numRateLimits = this.#lastS = 0;
    for (const call of this.#model.calls.values()) {
      if (isTakenOver(call)) {
        this.numTakenOver += 1;
      } else {
        sessions.add(call.session ?? 1);
        this.#lastS = Math.max(this.#lastS, endOf(call, 0));
        this.numAttempts += call.attempts.length;
        for (const attempt of call.attempts) {
          this.numRateLimits += Number(isRateLimit(attempt));
        }
        if (index >= this.#numTaken) {
          fresh.push(call);
          this.#name(call.node);
        }
      }
      index += 1;
    }
    this.#numSessions = sessions.size;
    this.#latest = Math.max(...sessions);
    return fresh;
  }

  /** Whether more is new than calls and what became of the latest: that may change what is laid of any time. */
  #isOtherwise(fresh) {
    const { session } = this.bars.at(-1);
    const isOld = (bar) => isTakenOver(bar.call) || (bar.session !== session && !isCutOff(bar.call));
    return fresh.some((call) => (call.session ?? 1) !== session) || [...this.#unended].some(isOld);
  }

  /** Lay what is new, and what may be otherwise for it: all that was under way at its earliest moment, or is later. */
  #lay(fresh, before) {
    const changed = [...this.#unended].filter((bar) => !isCutOff(bar.call));
    const since = Math.min(before, fresh[0]?.start ?? before, ...changed.map((bar) => endOf(bar.call, 0)));
    const ended = this.#ended.splice(countBefore(this.#ended, (bar) => bar.end >= since));
    const bars = this.bars.splice(countBefore(this.bars, (bar) => bar.start >= since));
    for (const bar of this.#unended) {
      this.#update(bar);
    }
    for (const bar of fresh) {
      this.#add(bar);
      ended.push(bar);
      bars.push(bar);
    }
    this.#ended = this.#ended.concat(ended.sort(byEnd));
    this.bars = this.bars.concat(bars.sort(byStart));
    this.lanes.lay(this.bars, since);
    this.concurrency.lay(this.bars, this.#ended, since);
    this.path.lay(this.#ended, since);
    this.times = this.path.timesOf(this.bars, this.concurrency, this.wallS);
  }

  /** Give a node its colour. */
  #name(node) {
    if (!this.nodes.has(node)) {
      this.nodes.set(node, NODE_SERIES[this.nodes.size % NODE_SERIES.length]);
    }
  }

  #add(bar) {
    bar.color = this.nodes.get(bar.call.node);
    bar.kind = kindOf(bar.call);
    bar.isCritical = false;
    this.#count(bar.kind, 1);
    this.#byId.set(bar.id, bar);
    if (isCutOff(bar.call)) {
      this.#unended.add(bar);
    }
  }

  /** What has become of a bar that had not ended; one of a session before this one keeps its end. */
  #update(bar) {
    if (!isCutOff(bar.call)) {
      bar.end = endOf(bar.call, 0);
      this.#unended.delete(bar);
    } else if (bar.session === this.#latest) {
      bar.end = endOf(bar.call, this.wallS);
    }
    this.#count(bar.kind, -1);
    bar.isOpen = bar.call.outcome === null;
    bar.kind = kindOf(bar.call);
    this.#count(bar.kind, 1);
  }

  #count(kind, change) {
    this.#kinds.set(kind, (this.#kinds.get(kind) ?? 0) + change);
  }
}

/** Whether an attempt was turned away because there were too many. */
export function isRateLimit(attempt) {
  return attempt.status === "429";
}

/** What became of a call: `running`, `cut off`, `failed`, `recalled` (from a cache), or `settled`. */
function kindOf(call) {
  if (call.outcome === null) {
    return "running";
  }
  if (call.outcome.state !== "settled") {
    return call.outcome.state === "failed" ? "failed" : "cut off";
  }
  return call.outcome.source === "model" ? "settled" : "recalled";
}

/**
 * Round moments for an axis.
 * @param {number} from seconds
 * @param {number} to seconds
 * @param {number} most how many at most
 * @returns {{moments: number[], step: number}}
 */
export function axisMoments(from, to, most) {
  const rough = Math.max(to - from, 1e-6) / Math.max(most, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const minutes = [60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400];
  const step =
    rough > 30
      ? (minutes.find((length) => length >= rough) ?? Math.ceil(rough / 86400) * 86400)
      : [1, 2, 5, 10].map((factor) => factor * power).find((length) => length >= rough * 0.999);
  const moments = [];
  for (let index = Math.ceil(from / step); index * step <= to; index += 1) {
    moments.push(index * step);
  }
  return { moments, step };
}
