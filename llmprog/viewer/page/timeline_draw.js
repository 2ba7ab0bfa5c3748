// Drawing a timeline: an axis, the calls under way as an area, the critical path, and a bar for each call.

import { axisMoments } from "./timeline_layout.js";
import { formatDuration, shorten, visible } from "./text.js";

// Heights of the parts, from above, in pixels; the lanes follow below.
const TIMELINE_PARTS = { axis: 24, area: 58, path: 30, margin: 12 };
const LANE = { smallest: 5, largest: 22 };
const SHORTEST_BAR_PX = 2;
const LABEL_FROM_PX = 46;
const LABEL_LANE_PX = 15;

/** Where the lanes begin, in pixels. */
export const TIMELINE_TOP = TIMELINE_PARTS.axis + TIMELINE_PARTS.area + TIMELINE_PARTS.path + TIMELINE_PARTS.margin;

/** The height of a lane where `count` of them have `room` pixels. */
export function laneHeight(count, room) {
  return Math.max(LANE.smallest, Math.min(LANE.largest, room / Math.max(count, 1)));
}

/** The page's colours as they are now: light or dark. */
export function readTimelineTheme(element) {
  const style = getComputedStyle(element);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  const names = ["surface", "raised", "ink", "quiet", "line", "invalid", "focus"];
  return {
    ...Object.fromEntries(names.map((name) => [name, color(name)])),
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
 * @param {object} lines of `layTimeline`
 * @param {{from: number, perSecond: number, scroll: number, lane: number, width: number, height: number}} view seconds
 *   at the left edge, pixels per second, pixels that the lanes are scrolled by, height of a lane, size
 * @param {object} theme of `readTimelineTheme`
 * @param {{selected: number|null, hovered: number|null}} focus
 */
export function drawTimeline(canvas, lines, view, theme, focus) {
  const context = canvas.getContext("2d");
  const ratio = canvas.width / view.width;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = theme.surface;
  context.fillRect(0, 0, view.width, view.height);
  context.font = theme.font;
  context.textBaseline = "middle";
  drawAxis(context, lines, view, theme);
  drawPauses(context, lines, view, theme);
  drawArea(context, lines, view, theme);
  drawPath(context, lines, view, theme);
  context.save();
  context.beginPath();
  context.rect(0, TIMELINE_TOP - 4, view.width, view.height);
  context.clip();
  drawBars(context, lines, view, theme);
  drawAttempts(context, lines, view, theme);
  drawFocus(context, lines, view, theme, focus);
  context.restore();
}

const toX = (view, moment) => (moment - view.from) * view.perSecond;

/** The rectangle of a bar, in whole pixels, which are drawn faster; at least as wide as can be seen. */
function barBox(bar, view) {
  const left = Math.round(toX(view, bar.start));
  const right = Math.round(toX(view, bar.end));
  const gap = view.lane >= 9 ? 2 : view.lane >= 6 ? 1 : 0;
  const top = Math.round(TIMELINE_TOP + bar.lane * view.lane - view.scroll);
  const bottom = Math.round(TIMELINE_TOP + (bar.lane + 1) * view.lane - view.scroll);
  return { left, top, width: Math.max(SHORTEST_BAR_PX, right - left), height: Math.max(1, bottom - top - gap) };
}

function isSeen({ left, top, width, height }, view) {
  return left + width >= 0 && left <= view.width && top + height >= TIMELINE_TOP - 4 && top <= view.height;
}

/**
 * Tells of bars, in the order of their starts, whether they end in a pixel of their lane that none before them has
 * painted. Those that do not are left out: in a long run most are narrower than a pixel.
 */
function freshPixels(laneCount) {
  const paintedTo = new Int32Array(laneCount).fill(-1e9);
  return (lane, right) => {
    const isFresh = right > paintedTo[lane];
    paintedTo[lane] = Math.max(paintedTo[lane], right);
    return isFresh;
  };
}

function drawAxis(context, lines, view, theme) {
  const to = view.from + view.width / view.perSecond;
  const { moments, step } = axisMoments(Math.max(0, view.from), Math.min(to, lines.wallS), view.width / 90);
  context.strokeStyle = theme.line;
  context.fillStyle = theme.quiet;
  context.lineWidth = 1;
  context.beginPath();
  for (const moment of moments) {
    const x = Math.round(toX(view, moment)) + 0.5;
    context.moveTo(x, TIMELINE_PARTS.axis - 6);
    context.lineTo(x, view.height);
    context.textAlign = x < 16 ? "left" : "center";
    context.fillText(axisLabel(moment, step), x < 16 ? Math.max(x, 2) : x, 9);
  }
  context.stroke();
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
function drawPauses(context, lines, view, theme) {
  context.fillStyle = theme.raised;
  for (const pause of lines.path.pauses) {
    const [left, right] = [Math.round(toX(view, pause.start)), Math.round(toX(view, pause.end))];
    context.fillRect(left, TIMELINE_PARTS.axis, Math.max(1, right - left), view.height);
  }
}

/** The number of calls under way, as an area: of each column of pixels the most, so that no short peak is lost. */
function drawArea(context, lines, view, theme) {
  const { axis, area } = TIMELINE_PARTS;
  const bottom = axis + area;
  const unit = (area - 16) / Math.max(lines.most, 1);
  const columns = new Int32Array(Math.ceil(view.width));
  const column = (moment) => Math.max(0, Math.min(columns.length, Math.round(toX(view, moment))));
  lines.steps.forEach(({ at, count }, index) => {
    const last = column(lines.steps[index + 1]?.at ?? lines.wallS);
    for (let x = column(at), first = x; x < Math.max(last, first + 1) && x < columns.length; x += 1) {
      columns[x] = Math.max(columns[x], count);
    }
  });
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
  context.fillText(`${lines.most} at a time`, 6, axis + 8);
}

/** The critical path in a row of its own: its calls, the time between them as waiting, and pauses as nothing. */
function drawPath(context, lines, view, theme) {
  const top = TIMELINE_PARTS.axis + TIMELINE_PARTS.area + 10;
  const height = TIMELINE_PARTS.path - 14;
  const waiting = hatch(context, theme.quiet, theme.raised);
  for (const gap of lines.path.gaps) {
    const left = toX(view, gap.start);
    const width = Math.max(1, (gap.end - gap.start) * view.perSecond);
    context.fillStyle = gap.isIdle ? waiting : theme.raised;
    context.fillRect(left, top + 3, width, height - 6);
    nameGap(context, "waiting", { left, width, top, height }, theme);
  }
  for (const pause of lines.path.pauses) {
    const width = (pause.end - pause.start) * view.perSecond;
    nameGap(context, "pause", { left: toX(view, pause.start), width, top, height }, theme);
  }
  const isFresh = freshPixels(1);
  for (const bar of lines.critical) {
    const { left, width } = barBox(bar, view);
    if (left + width < 0 || left > view.width || !isFresh(0, left + width)) {
      continue;
    }
    context.fillStyle = theme.series[bar.color - 1];
    context.fillRect(left, top, width, height);
    context.fillStyle = theme.ink;
    context.fillRect(left, top + height, width, 2);
  }
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

function drawBars(context, lines, view, theme) {
  for (const [color, bars] of lines.plain) {
    context.fillStyle = theme.series[color - 1];
    const isFresh = freshPixels(lines.laneCount);
    for (const bar of bars) {
      const box = barBox(bar, view);
      if (isSeen(box, view) && isFresh(bar.lane, box.left + box.width)) {
        context.fillRect(box.left, box.top, box.width, box.height);
      }
    }
  }
  const failed = hatch(context, theme.surface, null);
  const kinds = ["running", "cut off", "failed", "recalled"];
  const freshOf = new Map(kinds.map((kind) => [kind, freshPixels(lines.laneCount)]));
  for (const bar of lines.marked) {
    const box = barBox(bar, view);
    if (isSeen(box, view) && freshOf.get(bar.kind)(bar.lane, box.left + box.width)) {
      drawMarked(context, bar, box, theme, failed);
    }
  }
  if (view.lane >= LABEL_LANE_PX) {
    drawLabels(context, lines, view, theme);
  }
  context.fillStyle = theme.ink;
  const isFresh = freshPixels(lines.laneCount);
  for (const bar of lines.critical) {
    const box = barBox(bar, view);
    const { left, top, width, height } = box;
    if (isSeen(box, view) && isFresh(bar.lane, left + width)) {
      // Four bars: a stroke around a rectangle takes much longer.
      context.fillRect(left, top, width, 1);
      context.fillRect(left, top + height - 1, width, 1);
      context.fillRect(left - 1, top - 1, 2, height + 2);
      context.fillRect(left + width - 1, top - 1, 2, height + 2);
    }
  }
}

/** A call that did not simply settle: recalled ones are hollow, those under way are faint, failed ones are hatched. */
function drawMarked(context, bar, { left, top, width, height }, theme, failed) {
  const color = theme.series[bar.color - 1];
  if (bar.kind === "recalled") {
    context.strokeStyle = color;
    context.lineWidth = 1;
    context.strokeRect(left + 0.5, top + 0.5, Math.max(width, 4) - 1, height - 1);
    return;
  }
  context.fillStyle = color;
  context.globalAlpha = bar.kind === "failed" ? 1 : 0.45;
  context.fillRect(left, top, width, height);
  context.globalAlpha = 1;
  if (bar.kind !== "running") {
    context.fillStyle = failed;
    context.fillRect(left, top, width, height);
  }
  if (bar.kind === "failed") {
    const edge = Math.min(3, Math.ceil(height / 3));
    context.fillStyle = theme.invalid;
    context.fillRect(left, top + height - edge, width, edge);
  }
}

/** The names of nodes, on bars that have room for them. */
function drawLabels(context, lines, view, theme) {
  context.fillStyle = theme.surface;
  for (const bar of lines.bars) {
    if ((bar.end - bar.start) * view.perSecond >= LABEL_FROM_PX) {
      const box = barBox(bar, view);
      const shown = Math.max(box.left, 0);
      const room = Math.floor((box.left + box.width - shown - 8) / 6.5);
      if (room >= 4 && isSeen(box, view)) {
        context.fillText(shorten(visible(bar.call.node), room), shown + 5, box.top + box.height / 2 + 0.5);
      }
    }
  }
}

/** A thin mark where an attempt failed: rate limits in a colour of their own. */
function drawAttempts(context, lines, view, theme) {
  for (const bar of lines.retried) {
    const box = barBox(bar, view);
    for (const attempt of isSeen(box, view) ? bar.call.attempts : []) {
      const x = Math.round(toX(view, attempt.at));
      context.fillStyle = theme.surface;
      context.fillRect(x - 2, box.top - 1, 5, box.height + 2);
      context.fillStyle = isRateLimit(attempt) ? theme.rateLimit : theme.invalid;
      context.fillRect(x - 1, box.top - 1, 3, box.height + 2);
    }
  }
}

/** Whether an attempt was turned away because there were too many. */
export function isRateLimit(attempt) {
  return attempt.status === "429";
}

function drawFocus(context, lines, view, theme, focus) {
  for (const bar of lines.bars) {
    if (bar.id === focus.selected || bar.id === focus.hovered) {
      const { left, top, width, height } = barBox(bar, view);
      context.strokeStyle = bar.id === focus.selected ? theme.focus : theme.ink;
      context.lineWidth = bar.id === focus.selected ? 2.5 : 1.5;
      context.strokeRect(left - 2, top - 2, width + 4, height + 4);
    }
  }
}

/** Slanted lines of a colour, on another or on nothing. */
function hatch(context, color, ground) {
  const tile = document.createElement("canvas");
  [tile.width, tile.height] = [8, 8];
  const paint = tile.getContext("2d");
  if (ground !== null) {
    paint.fillStyle = ground;
    paint.fillRect(0, 0, 8, 8);
  }
  paint.strokeStyle = color;
  paint.lineWidth = ground === null ? 2 : 1;
  paint.beginPath();
  for (const shift of [-8, 0, 8]) {
    paint.moveTo(shift - 2, 10);
    paint.lineTo(shift + 10, -2);
  }
  paint.stroke();
  return context.createPattern(tile, "repeat");
}
