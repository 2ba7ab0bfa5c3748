// A run's calls as a picture of time: lanes, marks, how many at a time, and the critical path.

import { concurrencyOf, criticalPath, lanesOf, spansOf } from "./critical_path.js";
import { isTakenOver } from "./model.js";

// The colours of nodes, by their numbers; that of rate limits comes last.
const NODE_SERIES = [1, 3, 5, 4, 7, 6, 8, 2];

/**
 * The timeline of a model as it is now.
 * @param {object} model a `RunModel`
 * @returns {object} `wallS`; `numTakenOver`: calls of the run that this one was forked from, which have no time in it;
 *   `bars`: another call, its span and lane each, in the order of sending; of these `plain` by colour,
 *   `marked` (all that are not simply settled), `critical` (on the critical path) and `retried`; `laneCount`; `nodes`:
 *   names with the number of their colour; `steps` and `most`: the calls under way; `path`: of `criticalPath`
 */
export function layTimeline(model) {
  const calls = [...model.calls.values()].filter((call) => !isTakenOver(call));
  let wallS = model.run?.elapsed_s ?? 0;
  let isResumed = false;
  for (const call of calls) {
    wallS = Math.max(wallS, call.sent_at + (call.outcome?.duration_s ?? 0));
    isResumed ||= (call.session ?? 1) !== (calls[0].session ?? 1);
  }
  if (isResumed) {
    // The seconds that it took are those of its sessions; what is under way now is later by their pauses.
    wallS = Math.max(wallS, (model.run?.updated_at ?? 0) - (model.run?.began_at ?? 0));
  }
  const spans = spansOf(calls, wallS);
  const { lanes, count } = lanesOf(spans);
  const path = criticalPath(spans, wallS);
  const steps = concurrencyOf(spans);
  const nodes = new Map();
  const bars = spans.map((span, index) => {
    const call = model.calls.get(span.id);
    if (!nodes.has(call.node)) {
      nodes.set(call.node, NODE_SERIES[nodes.size % NODE_SERIES.length]);
    }
    return { ...span, call, lane: lanes[index], kind: kindOf(call), color: nodes.get(call.node) };
  });
  const most = steps.reduce((high, step) => Math.max(high, step.count), 0);
  const onPath = new Set(path.ids);
  const plain = new Map([...nodes.values()].map((color) => [color, []]));
  const marked = [];
  for (const bar of bars) {
    (bar.kind === "settled" ? plain.get(bar.color) : marked).push(bar);
  }
  const critical = bars.filter((bar) => onPath.has(bar.id));
  const retried = bars.filter((bar) => bar.call.attempts.length > 0);
  const numTakenOver = model.calls.size - calls.length;
  return { wallS, numTakenOver, bars, plain, marked, critical, retried, laneCount: count, nodes, steps, most, path };
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

/** The bar at a moment in a lane, or the nearest within `slackS` seconds; null if there is none. */
export function barAt(bars, lane, moment, slackS) {
  let [found, least] = [null, slackS];
  for (const bar of bars) {
    if (bar.lane === lane) {
      const distance = Math.max(bar.start - moment, moment - bar.end, 0);
      if (distance < least || (distance === 0 && least === 0)) {
        [found, least] = [bar, distance];
      }
    }
  }
  return found;
}
