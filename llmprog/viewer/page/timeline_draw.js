// Drawing a timeline: an axis, the calls under way as an area, the critical path, and below them the bars of calls.

import { axisMoments } from "./timeline_layout.js";
import { EDGE_PX, barBox, drawLabels, paintBars, toX } from "./timeline_bars.js";
import { countBefore } from "./call_spans.js";
import { formatDuration } from "./text.js";

// Heights of the parts, from above, in pixels; the lanes follow below.
const TIMELINE_PARTS = { axis: 24, area: 58, path: 30, margin: 12 };
const LANE = { smallest: 5, largest: 22 };

/** Where the lanes begin, in pixels. */
export const TIMELINE_TOP = TIMELINE_PARTS.axis + TIMELINE_PARTS.area + TIMELINE_PARTS.path + TIMELINE_PARTS.margin;

/** The height of a lane where `count` of them have `room` pixels. */
export function laneHeight(count, room) {
  return Math.max(LANE.smallest, Math.min(LANE.largest, room / Math.max(count, 1)));
}

/** The page's colours as they are now, light or dark, and patterns of them. */
export function readTimelineTheme(element) {
  const style = getComputedStyle(element);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  const names = ["surface", "raised", "ink", "quiet", "line", "invalid", "focus"];
  const named = Object.fromEntries(names.map((name) => [name, color(name)]));
  return {
    ...named,
    waiting: hatch(named.quiet, named.raised),
    areaFill: color("scale-1"),
    areaLine: color("scale-3"),
    rateLimit: color("rate-limit"),
    series: Array.from({ length: 8 }, (_, index) => color(`series-${index + 1}`)),
    font: `11px ${style.fontFamily}`,
  };
}

/**
 * Draw a timeline.
 * @param {HTMLCanvasElement} canvas
 * @param {Pixels} pixels to paint with, the same each time
 * @param {Timeline} timeline
 * @param {{from: number, perSecond: number, scroll: number, lane: number, width: number, height: number, top: number}}
 *   view seconds at the left edge, pixels per second, pixels that the lanes are scrolled by, height of a lane, size, where
 *   the lanes begin
 * @param {object} theme of `readTimelineTheme`
 * @param {{selected: number|null, hovered: number|null}} focus
 */
export function drawTimeline(canvas, pixels, timeline, view, theme, focus) {
  // What is behind the canvas is never seen: it is put on the screen faster if that is known.
  const context = canvas.getContext("2d", { alpha: false });
  const ratio = canvas.width / view.width;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = theme.surface;
  context.fillRect(0, 0, view.width, view.height);
  context.font = theme.font;
  context.textBaseline = "middle";
  const { moments, step } = momentsOf(timeline, view);
  drawAxis(context, moments, step, view, theme);
  for (const { left, width } of pauseBoxes(timeline, view)) {
    context.fillStyle = theme.raised;
    context.fillRect(left, TIMELINE_PARTS.axis, width, view.top);
  }
  drawArea(context, timeline, view, theme);
  drawPath(context, timeline, view, theme);
  pixels.begin(view.width, view.height - view.top + EDGE_PX, ratio, pixels.color(theme.surface));
  for (const moment of moments) {
    const x = Math.round(toX(view, moment));
    pixels.rect(x, x + 1, 0, view.height, pixels.color(theme.line));
  }
  for (const { left, width } of pauseBoxes(timeline, view)) {
    pixels.rect(left, left + width, 0, view.height, pixels.color(theme.raised));
  }
  const named = paintBars(pixels, timeline, view, theme);
  pixels.show(context, view.top - EDGE_PX);
  context.save();
  context.beginPath();
  context.rect(0, view.top - EDGE_PX, view.width, view.height);
  context.clip();
  drawLabels(context, named, view, theme);
  drawFocus(context, timeline, view, theme, focus);
  context.restore();
}

function momentsOf({ wallS }, view) {
  const to = view.from + view.width / view.perSecond;
  return axisMoments(Math.max(0, view.from), Math.min(to, wallS), view.width / 90);
}

function drawAxis(context, moments, step, view, theme) {
  for (const moment of moments) {
    const x = Math.round(toX(view, moment));
    context.fillStyle = theme.line;
    context.fillRect(x, TIMELINE_PARTS.axis - 6, 1, view.top);
    context.fillStyle = theme.quiet;
    context.textAlign = x < 16 ? "left" : "center";
    context.fillText(axisLabel(moment, step), x < 16 ? Math.max(x, 2) : x, 9);
  }
  context.textAlign = "left";
}

function axisLabel(moment, step) {
  if (step >= 60) {
    return moment === 0 ? "0" : formatDuration(moment);
  }
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return `${moment.toFixed(digits)} s`;
}

/** The pauses of a run that was resumed, from top to bottom: nobody was at work on it. */
function pauseBoxes({ times }, view) {
  return times.pauses.map(({ start, end }) => {
    const left = Math.round(toX(view, start));
    return { left, width: Math.max(1, Math.round(toX(view, end)) - left) };
  });
}

/** The number of calls under way, as an area: of each column of pixels the most, so that no short peak is lost. */
function drawArea(context, timeline, view, theme) {
  const { axis, area } = TIMELINE_PARTS;
  const bottom = axis + area;
  const { most } = timeline.concurrency;
  const unit = (area - 16) / Math.max(most, 1);
  const columns = columnsOf(timeline, view);
  for (let from = 0, to = 0; from < columns.length; from = to) {
    while (to < columns.length && columns[to] === columns[from]) {
      to += 1;
    }
    if (columns[from] > 0) {
      const height = Math.max(2, Math.round(columns[from] * unit));
      context.fillStyle = theme.areaFill;
      context.fillRect(from, bottom - height, to - from, height);
      context.fillStyle = theme.areaLine;
      context.fillRect(from, bottom - height, to - from, 1);
    }
  }
  context.fillStyle = theme.line;
  context.fillRect(0, bottom, view.width, 1);
  context.fillStyle = theme.quiet;
  context.fillText(`${most} at a time`, 6, axis + 8);
}

/** The most calls under way in each column of pixels. */
function columnsOf({ concurrency, wallS }, view) {
  const { moments, counts } = concurrency;
  const columns = new Int32Array(Math.ceil(view.width));
  const column = (moment) => Math.max(0, Math.min(columns.length, Math.round(toX(view, moment))));
  const to = view.from + view.width / view.perSecond;
  const first = Math.max(0, countBefore(moments, (moment) => moment > view.from) - 1);
  for (let index = first; index < moments.length && moments[index] <= to; index += 1) {
    const begin = column(moments[index]);
    const end = Math.min(columns.length, Math.max(begin + 1, column(moments[index + 1] ?? wallS)));
    for (let x = begin; x < end; x += 1) {
      columns[x] = Math.max(columns[x], counts[index]);
    }
  }
  return columns;
}

/** The critical path in a row of its own: its calls, the time between them as waiting, and pauses as nothing. */
function drawPath(context, timeline, view, theme) {
  const top = TIMELINE_PARTS.axis + TIMELINE_PARTS.area + 10;
  const height = TIMELINE_PARTS.path - 14;
  const { gaps, pauses } = timeline.times;
  for (const gap of inView(gaps, view)) {
    const left = toX(view, gap.start);
    const width = Math.max(1, (gap.end - gap.start) * view.perSecond);
    context.fillStyle = gap.isIdle ? theme.waiting : theme.raised;
    context.fillRect(left, top + 3, width, height - 6);
    nameGap(context, "waiting", { left, width, top, height }, theme);
  }
  for (const pause of pauses) {
    const width = (pause.end - pause.start) * view.perSecond;
    nameGap(context, "pause", { left: toX(view, pause.start), width, top, height }, theme);
  }
  let paintedTo = -Infinity;
  for (const bar of inView(timeline.path.spans, view)) {
    const { left, right } = barBox(bar, view);
    if (right > paintedTo) {
      const from = Math.max(left, paintedTo);
      context.fillStyle = theme.series[bar.color - 1];
      context.fillRect(from, top, right - from, height);
      context.fillStyle = theme.ink;
      context.fillRect(from, top + height, right - from, 2);
      paintedTo = right;
    }
  }
}

/** Of stretches of time that follow each other, those in view. */
function inView(stretches, view) {
  const slack = 3 / view.perSecond;
  const to = view.from + view.width / view.perSecond + slack;
  const first = countBefore(stretches, ({ end }) => end >= view.from - slack);
  return stretches.slice(
    first,
    countBefore(stretches, ({ start }) => start > to, first),
  );
}

/** The name of a stretch without calls, if there is room for it; it may be wider than the window. */
function nameGap(context, name, { left, width, top, height }, theme) {
  if (width > 90) {
    const at = Math.min(Math.max(left, 0), left + width - 54);
    context.fillStyle = theme.raised;
    context.fillRect(at + 3, top + 2, 48, height - 4);
    context.fillStyle = theme.quiet;
    context.fillText(name, at + 6, top + height / 2 + 1);
  }
}

function drawFocus(context, timeline, view, theme, focus) {
  for (const id of new Set([focus.hovered, focus.selected])) {
    const bar = timeline.bar(id);
    if (bar !== undefined) {
      const { left, right, top, height } = barBox(bar, view);
      context.strokeStyle = id === focus.selected ? theme.focus : theme.ink;
      context.lineWidth = id === focus.selected ? 2.5 : 1.5;
      context.strokeRect(left - 2, top - 2, right - left + 4, height + 4);
    }
  }
}

/** Slanted lines of a colour on another. */
function hatch(color, ground) {
  const tile = document.createElement("canvas");
  [tile.width, tile.height] = [8, 8];
  const paint = tile.getContext("2d");
  paint.fillStyle = ground;
  paint.fillRect(0, 0, 8, 8);
  paint.strokeStyle = color;
  paint.beginPath();
  for (const shift of [-8, 0, 8]) {
    paint.moveTo(shift - 2, 10);
    paint.lineTo(shift + 10, -2);
  }
  paint.stroke();
  return paint.createPattern(tile, "repeat");
}
