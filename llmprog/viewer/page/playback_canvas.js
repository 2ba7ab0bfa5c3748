// A canvas as it read after one step: its tokens in reading order, how sure the model was of each, what has changed.

import { el, fill, formatCount, formatShare, svg } from "./text.js";

const MOST_DRAWN = 6000;
const MASK = "▒";

/**
 * The picture of one step at a time.
 * @returns {{element: HTMLElement, show: function(Course, number)}}
 */
export function createCanvasPicture() {
  const element = el("div", { class: "playback-canvas mono", role: "group", "data-testid": "canvas" });
  const spans = [];
  let shape = "";

  const showTokens = (course, index) => {
    const tokens = course.steps[index].tokens;
    const changes = course.changes(index);
    const count = Math.min(tokens.length, MOST_DRAWN);
    while (spans.length < count) {
      spans.push(el("span", { class: "playback-token", "data-testid": "canvas-token" }));
    }
    let isAtStart = true;
    for (let place = 0; place < count; place += 1) {
      drawToken(spans[place], tokens[place], changes[place], isAtStart);
      isAtStart = tokens[place][0]?.endsWith("\n") ?? false;
    }
    const rest = tokens.length - count;
    if (shape !== `${count} ${rest}`) {
      shape = `${count} ${rest}`;
      fill(element, spans.slice(0, count), rest > 0 && el("p", { class: "quiet" }, `… and ${formatCount(rest)} more tokens`));
    }
    const { numWritten, numTokens } = course.progress(index);
    element.setAttribute("aria-label", `The canvas after step ${index}: ${numWritten} of ${numTokens} tokens are written`);
  };

  return {
    element,
    show(course, index) {
      if (course.hasTokens) {
        showTokens(course, index);
      } else {
        shape = "";
        fill(element, course.steps[index].text ?? "");
        element.setAttribute("aria-label", `The text after step ${index}`);
      }
    },
  };
}

function drawToken(span, [text, probability], change, isAtStart) {
  const sign = `${text} ${probability} ${change} ${isAtStart}`;
  if (span.dataset.sign === sign) {
    return;
  }
  span.dataset.sign = sign;
  const isMask = text === null;
  // The space before a word is a gap between tokens; a line ends where it shows.
  const hasGap = !isMask && text.length > 1 && text.startsWith(" ") && text.trim() !== "";
  span.className = ["playback-token", isMask ? "is-mask" : probability === null ? "is-given" : "is-sure", change && `is-${change}`]
    .concat(hasGap && !isAtStart ? "has-gap" : "")
    .filter(Boolean)
    .join(" ");
  fill(span, isMask ? MASK : (hasGap ? text.slice(1) : text).replaceAll("\n", "⏎\n") || "∅");
  span.style.setProperty("--sure", `${Math.round(100 * (probability ?? 0))}%`);
  span.title = isMask ? "not written yet" : titleOf(probability, change);
}

function titleOf(probability, change) {
  const said = { written: "written in this step", changed: "replaced in this step" }[change];
  const likely = probability === null ? "probability not known" : `probability ${formatShare(probability)}`;
  return said === undefined ? likely : `${likely}, ${said}`;
}

/** What the colours and frames of the picture mean. */
export function canvasLegend() {
  const entry = (kind, ...said) => el("li", {}, el("span", { class: `playback-token ${kind}`, "aria-hidden": "true" }, "abc"), ...said);
  const mask = el("li", {}, el("span", { class: "playback-token is-mask", "aria-hidden": "true" }, MASK), "not written yet");
  const scale = el(
    "li",
    {},
    "the model’s probability of the token: 0 %",
    el("span", { class: "playback-scale", "aria-hidden": "true" }),
    "100 %",
  );
  return el(
    "ul",
    { class: "graph-legend playback-legend", "data-testid": "canvas-legend" },
    scale,
    mask,
    entry("is-written", "written in this step"),
    entry("is-changed", "replaced"),
    el("li", {}, el("span", { class: "playback-token is-mask is-masked", "aria-hidden": "true" }, MASK), "masked again"),
    entry("is-given", "given, or not known"),
  );
}

/** The signs on the buttons of a player, drawn, since fonts show the characters each in their own way. */
export function playerIcon(name) {
  const shapes = {
    play: "M4 2 L14 8 L4 14 Z",
    pause: "M3 2 H6.5 V14 H3 Z M9.5 2 H13 V14 H9.5 Z",
    back: "M11 2 L4 8 L11 14 Z",
    on: "M5 2 L12 8 L5 14 Z",
    first: "M13 2 L6 8 L13 14 Z M3 2 H5 V14 H3 Z",
    last: "M3 2 L10 8 L3 14 Z M11 2 H13 V14 H11 Z",
  };
  return svg(
    "svg",
    { viewBox: "0 0 16 16", width: 14, height: 14, "aria-hidden": "true" },
    svg("path", { d: shapes[name], fill: "currentColor" }),
  );
}
