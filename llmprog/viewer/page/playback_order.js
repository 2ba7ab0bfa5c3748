// In which order a canvas was written: a strip with the step of each token, and how many tokens came to stay in each step.

import { el, fill, formatPlural, svg } from "./text.js";

const STRIP_HEIGHT = 10;
const BARS_HEIGHT = 44;

/**
 * Both pictures; a click on either leads to a step.
 * @param {function(number)} onStep
 * @returns {{element: HTMLElement, show: function(Course), mark: function(number)}}
 */
export function createOrderPictures(onStep) {
  const strip = el("div", { class: "playback-strip", "data-testid": "order-strip" });
  const bars = el("div", { class: "playback-bars", "data-testid": "settled-bars" });
  const said = el("p", { class: "quiet playback-said", "data-testid": "order-said" });
  const element = el(
    "div",
    { class: "playback-order" },
    el("section", {}, el("h2", {}, "When each token came to stay, from the first to the last"), strip, earlyToLate()),
    el("section", {}, el("h2", {}, "Tokens that came to stay, step by step"), bars, said),
  );
  let marks = [];

  return {
    element,
    show(course) {
      element.hidden = !course.hasTokens || course.last < 1;
      marks = [];
      if (!element.hidden) {
        fill(strip, stripOf(course, marks, onStep));
        fill(bars, barsOf(course, marks, onStep));
        fill(said, sentenceOf(course));
      }
    },
    mark(index) {
      for (const { shape, step, isBar } of marks) {
        shape.classList.toggle("is-now", step === index);
        shape.classList.toggle("is-later", step > index && !isBar);
      }
    },
  };
}

/** One rectangle for each run of tokens that came in the same step. */
function stripOf(course, marks, onStep) {
  const settled = course.settledAt;
  const picture = svg("svg", {
    viewBox: `0 0 ${Math.max(1, settled.length)} ${STRIP_HEIGHT}`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": "The step in which each token was written last",
  });
  for (let from = 0; from < settled.length; ) {
    let to = from + 1;
    while (to < settled.length && settled[to] === settled[from]) {
      to += 1;
    }
    picture.append(stripCell(course, marks, onStep, from, to));
    from = to;
  }
  return picture;
}

function stripCell(course, marks, onStep, from, to) {
  const step = course.settledAt[from];
  const which = to - from > 1 ? `tokens ${from + 1} to ${to}` : `token ${from + 1}`;
  const when = { "-1": "never written", 0: "given" }[step] ?? `step ${step}`;
  const shape = svg(
    "rect",
    { x: from, y: 0, width: to - from, height: STRIP_HEIGHT, class: step > 0 ? "playback-cell" : "playback-cell is-given" },
    svg("title", {}, `${which}: ${when}`),
  );
  if (step > 0) {
    shape.style.setProperty("--late", `${Math.round((100 * step) / Math.max(1, course.last))}%`);
    shape.addEventListener("click", () => onStep(step));
    marks.push({ shape, step, isBar: false });
  }
  return shape;
}

function barsOf(course, marks, onStep) {
  const most = Math.max(1, ...course.numSettled);
  const picture = svg("svg", {
    viewBox: `0 0 ${course.last} ${BARS_HEIGHT}`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": `How many tokens came to stay in each step; at most ${most}`,
  });
  for (let step = 1; step <= course.last; step += 1) {
    const count = course.numSettled[step];
    const height = count > 0 ? Math.max(2, (BARS_HEIGHT * count) / most) : 1;
    const bar = svg("rect", { x: step - 0.9, y: BARS_HEIGHT - height, width: 0.8, height, class: "playback-bar" });
    const target = svg(
      "rect",
      { x: step - 1, y: 0, width: 1, height: BARS_HEIGHT, class: "playback-target", click: () => onStep(step) },
      svg("title", {}, `step ${step}: ${formatPlural(count, "token")}`),
    );
    marks.push({ shape: bar, step, isBar: true });
    picture.append(bar, target);
  }
  return picture;
}

function sentenceOf(course) {
  const counts = course.numSettled.slice(1);
  const written = counts.reduce((sum, count) => sum + count, 0);
  const most = Math.max(...counts);
  const mean = Number((written / counts.length).toPrecision(2));
  return `${formatPlural(written, "token")} in ${formatPlural(counts.length, "step")}: ${mean} per step on average, ${most} at most`;
}

function earlyToLate() {
  return el(
    "p",
    { class: "quiet playback-early-late" },
    "early",
    el("span", { class: "playback-scale is-order", "aria-hidden": "true" }),
    "late",
  );
}
