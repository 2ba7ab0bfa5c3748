// Drawing a timeline: an axis, the calls under way as an area, the critical path, and a bar for each call.

import { axisMoments } from "./timeline_layout.js";
import { formatDuration, shorten, visible } from "./text.js";

/** Heights of the parts, from above, in pixels; the lanes follow below. */
export const TIMELINE_PARTS = { axis: 24, area: 58, path: 30, margin: 12 };
const LANE = { smallest: 5, largest: 22 };
const SHORTEST_BAR_PX = 1.5;
const LABEL_FROM_PX = 46;

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
  const names = ["surface", "raised", "ink", "quiet", "line", "accent", "invalid", "focus"];
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

/** The rectangle of a bar: its place among the lanes, at least as wide as can be seen. */
function barBox(bar, view) {
  const left = toX(view, bar.start);
  const gap = view.lane >= 9 ? 2 : view.lane >= 6 ? 1 : 0;
  const top = TIMELINE_TOP + bar.lane * view.lane - view.scroll;
  const width = Math.max(SHORTEST_BAR_PX, (bar.end - bar.start) * view.perSecond);
  return { left, top, width, height: view.lane - gap };
}

function isSeen({ left, top, width, height }, view) {
  return left + width >= 0 && left <= view.width && top + height >= TIMELINE_TOP - 4 && top <= view.height;
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

/** The number of calls under way, as an area with its highest value written beside it. */
function drawArea(context, lines, view, theme) {
  const { axis, area } = TIMELINE_PARTS;
  const bottom = axis + area;
  const unit = (area - 16) / Math.max(lines.most, 1);
  const outline = new Path2D();
  let [height, lastX] = [0, Math.max(0, toX(view, 0))];
  outline.moveTo(lastX, bottom);
  for (const step of lines.steps) {
    const x = Math.min(view.width, Math.max(0, toX(view, step.at)));
    outline.lineTo(x, bottom - height);
    height = step.count * unit;
    outline.lineTo(x, bottom - height);
    lastX = x;
  }
  outline.lineTo(Math.max(lastX, Math.min(view.width, toX(view, lines.wallS))), bottom - height);
  outline.lineTo(Math.max(lastX, Math.min(view.width, toX(view, lines.wallS))), bottom);
  context.fillStyle = theme.areaFill;
  context.fill(outline);
  context.strokeStyle = theme.areaLine;
  context.lineWidth = 1;
  context.stroke(outline);
  context.fillStyle = theme.quiet;
  context.fillText(`${lines.most} at a time`, 6, axis + 8);
}

/** The critical path in a row of its own: its calls, and the time between them as waiting. */
function drawPath(context, lines, view, theme) {
  const top = TIMELINE_PARTS.axis + TIMELINE_PARTS.area + 10;
  const height = TIMELINE_PARTS.path - 14;
  const waiting = hatch(context, theme.quiet, theme.raised);
  for (const gap of lines.path.gaps) {
    const left = toX(view, gap.start);
    const width = Math.max(1, (gap.end - gap.start) * view.perSecond);
    context.fillStyle = gap.isIdle ? waiting : theme.raised;
    context.fillRect(left, top + 3, width, height - 6);
    if (width > 90) {
      // The gap may be wider than the window: its label stands where it is seen.
      const at = Math.min(Math.max(left, 0), left + width - 54);
      context.fillStyle = theme.raised;
      context.fillRect(at + 3, top + 2, 48, height - 4);
      context.fillStyle = theme.quiet;
      context.fillText("waiting", at + 6, top + height / 2 + 1);
    }
  }
  for (const bar of lines.bars) {
    if (lines.critical.has(bar.id)) {
      const { left, width } = barBox(bar, view);
      context.fillStyle = theme.series[bar.color - 1];
      context.fillRect(left, top, width, height);
      context.fillStyle = theme.ink;
      context.fillRect(left, top + height, width, 2);
    }
  }
}

function drawBars(context, lines, view, theme) {
  const failed = hatch(context, theme.surface, null);
  const byColor = new Map();
  const critical = [];
  for (const bar of lines.bars) {
    const box = barBox(bar, view);
    if (isSeen(box, view)) {
      const group = byColor.get(bar.color) ?? [];
      group.push([bar, box]);
      byColor.set(bar.color, group);
      if (lines.critical.has(bar.id)) {
        critical.push(box);
      }
    }
  }
  for (const [color, group] of byColor) {
    for (const [bar, box] of group) {
      context.fillStyle = theme.series[color - 1];
      drawBar(context, bar, box, theme, failed);
    }
  }
  context.strokeStyle = theme.ink;
  context.lineWidth = 1.5;
  for (const { left, top, width, height } of critical) {
    context.strokeRect(left - 0.5, top - 0.5, width + 1, height + 1);
  }
}

/** A bar by its kind: recalled ones are hollow, those under way fade out, failed ones are hatched. */
function drawBar(context, bar, { left, top, width, height }, theme, failed) {
  if (bar.kind === "recalled") {
    context.strokeStyle = context.fillStyle;
    context.lineWidth = 1.2;
    context.strokeRect(left + 0.5, top + 0.5, Math.max(width, 4) - 1, height - 1);
    return;
  }
  context.globalAlpha = bar.kind === "running" || bar.kind === "cut off" ? 0.45 : 1;
  context.fillRect(left, top, width, height);
  context.globalAlpha = 1;
  if (bar.kind === "failed" || bar.kind === "cut off") {
    context.fillStyle = failed;
    context.fillRect(left, top, width, height);
  }
  if (bar.kind === "failed") {
    context.fillStyle = theme.invalid;
    context.fillRect(left, top + height - Math.min(3, height / 3), width, Math.min(3, height / 3));
  }
  if (width >= LABEL_FROM_PX && height >= 13) {
    const shown = Math.max(left, 0);
    const room = Math.floor((left + width - shown - 8) / 6.5);
    if (room >= 4) {
      context.fillStyle = theme.surface;
      context.fillText(shorten(visible(bar.call.node), room), shown + 5, top + height / 2 + 0.5);
    }
  }
}

/** A thin mark where an attempt failed: rate limits in a colour of their own. */
function drawAttempts(context, lines, view, theme) {
  for (const bar of lines.bars) {
    const box = bar.call.attempts.length > 0 ? barBox(bar, view) : null;
    if (box === null || !isSeen(box, view)) {
      continue;
    }
    for (const attempt of bar.call.attempts) {
      const x = toX(view, attempt.at + (attempt.duration_s ?? 0));
      context.fillStyle = theme.surface;
      context.fillRect(x - 2.5, box.top - 1, 5, box.height + 2);
      context.fillStyle = isRateLimit(attempt) ? theme.rateLimit : theme.invalid;
      context.fillRect(x - 1.5, box.top - 1, 3, box.height + 2);
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
