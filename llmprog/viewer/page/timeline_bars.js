// Painting the bars of a timeline: those in view only, what is narrower than a pixel as one, and what went wrong on top.
//
// Of each lane in view the bars in view are found by their times. Bars that settled and touch are one rectangle of their
// colour. Of the others, of failed attempts and of the critical path, no two rectangles of a kind are drawn at one place,
// the graver kinds later: so none of them is hidden by what merely settled, however many there are.

import { isRateLimit } from "./timeline_layout.js";
import { shorten, visible } from "./text.js";

/** How far above the first lane the picture of the lanes begins: what is marked reaches out of its lane. */
export const EDGE_PX = 4;

const SHORTEST_BAR_PX = 2;
const LABEL_FROM_PX = 46;
const LABEL_LANE_PX = 15;
const LETTER_PX = 6.5;
const HATCHED_FROM_PX = 6;

// From those that matter least to those that matter most.
const MARKS = ["recalled", "running", "cut off", "failed"];

/** How much a bar is to be seen among others at the same place: what was tried again, and more so what failed. */
export function rankOf(bar) {
  return 2 * MARKS.indexOf(bar.kind) + (bar.call.attempts.length > 0 ? 3 : 2);
}

/** Where a moment is, in pixels from the left. */
export function toX(view, moment) {
  return (moment - view.from) * view.perSecond;
}

/** The rectangle of a bar, in whole pixels, which are drawn faster; at least as wide as can be seen. */
export function barBox(bar, view) {
  const left = Math.round(toX(view, bar.start));
  const right = Math.max(left + SHORTEST_BAR_PX, Math.round(toX(view, bar.end)));
  return { left, right, ...laneBox(bar.lane, view) };
}

function laneBox(lane, view) {
  const gap = view.lane >= 9 ? 2 : view.lane >= 6 ? 1 : 0;
  const top = Math.round(view.top + lane * view.lane - view.scroll);
  const bottom = Math.round(view.top + (lane + 1) * view.lane - view.scroll);
  return { top, height: Math.max(1, bottom - top - gap) };
}

/**
 * Paint the bars in view.
 * @param {Pixels} pixels a picture that has begun, whose upper edge is at `view.top - EDGE_PX`
 * @param {Timeline} timeline
 * @param {object} view as for `drawTimeline`
 * @param {object} theme of `readTimelineTheme`
 * @returns {object[]} bars that have room for a name
 */
export function paintBars(pixels, timeline, view, theme) {
  const found = collect(timeline, view);
  const surface = pixels.color(theme.surface);
  const paint = (boxes, color) => boxes.each((...box) => pixels.rect(...box, color));
  for (const [color, boxes] of found.plain) {
    paint(boxes, pixels.color(theme.series[color - 1]));
  }
  MARKS.forEach((kind, index) => {
    for (const [color, boxes] of found.marks[index]) {
      const own = theme.series[color - 1];
      if (kind === "recalled") {
        boxes.each((left, right, ...rest) => frame(pixels, left, Math.max(right, left + 4), ...rest, pixels.color(own)));
        continue;
      }
      paint(boxes, kind === "failed" ? pixels.color(own) : pixels.color(own, 0.45, theme.surface));
      if (kind !== "running") {
        boxes.each((...box) => pixels.hatch(...box, surface));
      }
    }
  });
  for (const boxes of found.marks.at(-1).values()) {
    boxes.each((left, right, top, height) => {
      // Where there is no room for an edge, all of it says that it failed.
      const edge = right - left < HATCHED_FROM_PX ? height : Math.min(3, Math.ceil(height / 3));
      pixels.rect(left, right, top + height - edge, edge, pixels.color(theme.invalid));
    });
  }
  found.critical.each((left, right, top, height) => {
    frame(pixels, left - 1, right + 1, top - 1, height + 2, pixels.color(theme.ink), 2);
  });
  paint(found.halos, surface);
  paint(found.limits, pixels.color(theme.rateLimit));
  paint(found.failures, pixels.color(theme.invalid));
  return found.wide;
}

/** Paint the edge of a rectangle. */
function frame(pixels, left, right, top, height, color, side = 1) {
  if (right - left <= 2 * side) {
    pixels.rect(left, right, top, height, color);
    return;
  }
  const thick = Math.min(side, height);
  pixels.rect(left, right, top, thick, color);
  pixels.rect(left, right, top + height - thick, thick, color);
  pixels.rect(left, left + side, top, height, color);
  pixels.rect(right - side, right, top, height, color);
}

/** Rectangles of one look; those that touch within a lane become one. */
class Boxes {
  sides = [];
  #top = null;

  /** Add a rectangle, to the right of all that were added of this lane. */
  add(left, right, top, height) {
    const { sides } = this;
    if (this.#top === top && left <= sides[sides.length - 3]) {
      sides[sides.length - 3] = Math.max(sides[sides.length - 3], right);
    } else {
      sides.push(left, right, top, height);
      this.#top = top;
    }
  }

  each(draw) {
    const { sides } = this;
    for (let at = 0; at < sides.length; at += 4) {
      draw(sides[at], sides[at + 1], sides[at + 2], sides[at + 3]);
    }
  }
}

/** Rectangles of one look that each stay by themselves; those that end in no pixel of their own are left out. */
class Apart extends Boxes {
  #lane = null;
  #end = 0;

  add(left, right, top, height) {
    if (this.#lane !== top || right > this.#end) {
      this.sides.push(left, right, top, height);
      [this.#lane, this.#end] = [top, right];
    }
  }
}

/** What is to be drawn, in rectangles. */
function collect({ lanes }, view) {
  const marks = MARKS.map(() => new Map());
  const found = { plain: new Map(), marks, wide: [], critical: new Apart() };
  [found.halos, found.limits, found.failures] = [new Boxes(), new Boxes(), new Boxes()];
  const first = Math.max(0, Math.floor((view.scroll - 8) / view.lane));
  const last = Math.min(lanes.count, Math.ceil((view.scroll + view.height - view.top) / view.lane));
  for (let lane = first; lane < last; lane += 1) {
    collectLane(lanes, lane, view, found);
  }
  return found;
}

function collectLane(lanes, lane, view, found) {
  const bars = lanes.of(lane);
  const { top: onPage, height } = laneBox(lane, view);
  const top = onPage - view.top + EDGE_PX;
  const { from, perSecond } = view;
  const margin = 3 / perSecond;
  const end = from + view.width / perSecond + margin;
  let paintedTo = -Infinity;
  let [color, plain] = [null, null];
  for (let index = lanes.firstAfter(lane, from - margin); index < bars.length; index += 1) {
    const bar = bars[index];
    if (bar.start > end) {
      break;
    }
    const left = Math.round((bar.start - from) * perSecond);
    const right = Math.max(left + SHORTEST_BAR_PX, Math.round((bar.end - from) * perSecond));
    if (bar.kind !== "settled") {
      boxesOf(found.marks[MARKS.indexOf(bar.kind)], bar.color, Apart).add(left, right, top, height);
    } else if (right > paintedTo) {
      if (bar.color !== color) {
        [color, plain] = [bar.color, boxesOf(found.plain, bar.color, Boxes)];
      }
      plain.add(Math.max(left, paintedTo), right, top, height);
      paintedTo = right;
    }
    if (right - left >= LABEL_FROM_PX) {
      found.wide.push(bar);
    }
    if (bar.isCritical) {
      found.critical.add(left, right, top, height);
    }
    if (bar.call.attempts.length > 0) {
      collectAttempts(bar.call.attempts, { top, height }, view, found);
    }
  }
}

/** A thin mark where an attempt failed, set apart from the bar: rate limits in a colour of their own. */
function collectAttempts(attempts, { top, height }, view, found) {
  for (const attempt of attempts) {
    const x = Math.round(toX(view, attempt.at));
    found.halos.add(x - 2, x + 3, top - 1, height + 2);
    (isRateLimit(attempt) ? found.limits : found.failures).add(x - 1, x + 2, top - 1, height + 2);
  }
}

function boxesOf(byColor, color, Kind) {
  let boxes = byColor.get(color);
  if (boxes === undefined) {
    boxes = new Kind();
    byColor.set(color, boxes);
  }
  return boxes;
}

/** Draw the names of nodes on bars of `paintBars`. */
export function drawLabels(context, bars, view, theme) {
  if (view.lane < LABEL_LANE_PX) {
    return;
  }
  const known = new Map();
  context.fillStyle = theme.surface;
  for (const bar of bars) {
    const { left, right, top, height } = barBox(bar, view);
    const shown = Math.max(left, 0);
    const room = Math.floor((right - shown - 8) / LETTER_PX);
    if (room >= 4) {
      const key = `${room} ${bar.call.node}`;
      const label = known.get(key) ?? shorten(visible(bar.call.node), room);
      known.set(key, label);
      context.fillText(label, shown + 5, top + height / 2 + 0.5);
    }
  }
}
