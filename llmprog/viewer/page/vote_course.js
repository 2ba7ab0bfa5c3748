// The course of a vote as a picture: the share of each leading answer, and the confidence, against the samples drawn.

import { formatShare, formatValue, shorten, svg } from "./text.js";

const HEIGHT = 240;
const MARGIN = { left: 48, right: 130, top: 12, bottom: 30 };
const LINES = 5;
const NAME_HEIGHT = 15;

/**
 * The picture; a click or drag in it goes to the moment under the pointer.
 * @param {object[]} votes the vote after each sample
 * @param {number} index the moment that is shown
 * @param {Map<string, number>} colours the colour's number of each leading answer
 * @param {number} width in pixels
 * @param {function(number)} onMoment
 * @returns {SVGElement}
 */
export function voteCourse(votes, index, colours, width, onMoment) {
  const last = votes.at(-1).num_heard || 1;
  const right = width - MARGIN.right;
  const bottom = HEIGHT - MARGIN.bottom;
  const x = (samples) => MARGIN.left + ((right - MARGIN.left) * samples) / last;
  const y = (share) => bottom - (bottom - MARGIN.top) * share;

  const answers = [...colours.keys()].slice(0, LINES);
  const lines = answers.map((answer) => {
    const points = votes.map((vote) => [x(vote.num_heard), y(shareOf(vote, answer))]);
    return svg("path", { d: stairs(points), class: `course-line series-${colours.get(answer)}` });
  });
  const sure = votes.filter((vote) => typeof vote.confidence === "number");
  if (sure.length > 1) {
    const points = sure.map((vote) => [x(vote.num_heard), y(vote.confidence)]);
    lines.push(svg("path", { d: stairs(points), class: "course-line confidence" }));
  }

  const picture = svg(
    "svg",
    {
      viewBox: `0 0 ${width} ${HEIGHT}`,
      class: "course",
      role: "img",
      "aria-label": `Shares of the ${answers.length} leading answers over ${last} samples`,
    },
    [0, 0.25, 0.5, 0.75, 1].map((share) => [
      svg("line", { x1: MARGIN.left, x2: right, y1: y(share), y2: y(share), class: "course-grid" }),
      svg("text", { x: MARGIN.left - 8, y: y(share) + 4, class: "course-label end" }, formatShare(share)),
    ]),
    ticks(last).map((samples) =>
      svg("text", { x: x(samples), y: HEIGHT - 8, class: "course-label middle" }, String(samples)),
    ),
    lines,
    svg("line", {
      x1: x(votes[index].num_heard),
      x2: x(votes[index].num_heard),
      y1: MARGIN.top,
      y2: bottom,
      class: "course-now",
    }),
    legend(answers, colours, votes.at(-1), sure, y, right),
  );

  const goTo = (event) => {
    const box = picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    const samples = ((at - MARGIN.left) / (right - MARGIN.left)) * last;
    onMoment(nearest(votes, samples));
  };
  picture.addEventListener("pointerdown", goTo);
  picture.addEventListener("pointermove", (event) => event.buttons === 1 && goTo(event));
  return picture;
}

function shareOf(vote, answer) {
  const total = vote.histogram.reduce((sum, [, votes]) => sum + votes, 0);
  const own = vote.histogram.find(([other]) => formatValue(other) === answer);
  return own === undefined || total === 0 ? 0 : own[1] / total;
}

/** A line that stays level until the next sample changes it. */
function stairs(points) {
  const [[x, y], ...others] = points;
  return `M${x.toFixed(1)} ${y.toFixed(1)}${others.map(([h, v]) => `H${h.toFixed(1)}V${v.toFixed(1)}`).join("")}`;
}

/** Whole numbers from 0 to `last`, about five, at round steps. */
function ticks(last) {
  const rough = last / 5;
  const power = 10 ** Math.floor(Math.log10(Math.max(rough, 1)));
  const step = Math.max(1, [1, 2, 5, 10].find((factor) => factor * power >= rough) * power);
  return Array.from({ length: Math.floor(last / step) + 1 }, (_, i) => i * step);
}

function nearest(votes, samples) {
  let best = 0;
  for (const [index, vote] of votes.entries()) {
    if (Math.abs(vote.num_heard - samples) <= Math.abs(votes[best].num_heard - samples)) {
      best = index;
    }
  }
  return best;
}

/** Names at the lines' ends, moved apart where they would overlap. */
function legend(answers, colours, vote, sure, y, right) {
  const names = answers.map((answer) => ({
    text: shorten(answer, 18) || "(empty)",
    class: `series-${colours.get(answer)}`,
    y: y(shareOf(vote, answer)) + 4,
  }));
  if (sure.length > 1) {
    names.push({ text: "confidence", class: "confidence", y: y(sure.at(-1).confidence) + 4 });
  }
  names.sort((one, other) => one.y - other.y);
  for (let i = names.length - 1, below = y(0) + 4 + NAME_HEIGHT; i >= 0; i -= 1) {
    names[i].y = below = Math.min(names[i].y, below - NAME_HEIGHT); // upward: below the axis there is no room
  }
  return names.map((name) => svg("text", { x: right + 8, y: name.y, class: `course-name ${name.class}` }, name.text));
}
