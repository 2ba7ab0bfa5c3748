// A vote: how many samples spoke for each answer, how sure the leader is, and how it came to that.

import { el, fill, formatCount, formatPlural, formatScore, formatShare, formatValue, shorten } from "./text.js";
import { voteCourse } from "./vote_course.js";

const BARS_AT_FIRST = 12;
const COLOURS = 8;
const NARROWEST = 320;

/**
 * The vote of a search.
 * @param {{model: RunModel, path: string}} options
 * @returns {{element: HTMLElement, update: function(), setPath: function(string), destroy: function()}}
 */
export function createVoteView({ model, path }) {
  const summary = el("div", { class: "vote-summary", "data-testid": "vote-summary" });
  const bars = el("div", {
    class: "vote-bars",
    role: "list",
    "aria-label": "Answers by votes",
    "data-testid": "vote-bars",
  });
  const slider = el("input", {
    type: "range",
    min: "1",
    "aria-label": "Moment of the vote",
    "data-testid": "vote-slider",
    input: () => {
      isAtEnd = Number(slider.value) === Number(slider.max);
      draw();
    },
  });
  const moment = el("output", { class: "quiet", "data-testid": "vote-moment" });
  const chart = el("div", { class: "vote-chart" });
  const course = el(
    "section",
    { class: "vote-course", "data-testid": "vote-course" },
    el("h2", {}, "As the samples arrived"),
    chart,
    el("div", { class: "vote-slider" }, slider, moment),
  );
  const nothing = el("p", { class: "quiet" }, "No sample has voted yet.");
  const element = el("div", { class: "vote-view" }, nothing, summary, bars, course);
  let isAtEnd = true;
  let isUnfolded = false;
  let drawn = null;

  const votes = () => votesOf(model, path);
  const showAt = (index) => {
    slider.value = String(index + 1);
    isAtEnd = index + 1 === Number(slider.max);
    draw();
  };

  const unfold = () => {
    isUnfolded = true;
    draw();
  };
  const draw = () => {
    const all = votes();
    nothing.hidden = all.length > 0;
    summary.hidden = bars.hidden = all.length === 0;
    course.hidden = all.length < 2;
    if (all.length === 0) {
      return;
    }
    slider.max = String(all.length);
    if (isAtEnd) {
      slider.value = slider.max;
    }
    const index = Number(slider.value) - 1;
    const colours = coloursOf(all.at(-1));
    fill(summary, summaryOf(all[index], isAtEnd));
    fill(bars, barsOf(all[index], colours, isUnfolded ? Infinity : BARS_AT_FIRST, unfold));
    moment.textContent = `after ${formatPlural(all[index].num_heard, "sample")}`;
    if (all.length > 1) {
      fill(chart, voteCourse(all, index, colours, Math.max(chart.clientWidth, NARROWEST), showAt));
    }
  };

  const onResize = new ResizeObserver(() => requestAnimationFrame(draw));
  onResize.observe(element);

  return {
    element,
    update() {
      const sign = `${path} ${votes().length} ${model.search(path)?.revision}`;
      if (sign !== drawn) {
        drawn = sign;
        draw();
      }
    },
    setPath(given) {
      path = given;
      isAtEnd = true;
      drawn = null;
      this.update();
    },
    destroy() {
      onResize.disconnect();
    },
  };
}

/**
 * The moments of a search's vote; of a run that kept none while it ran, the vote that it ended with.
 *
 * `num_samples` of a moment counts the samples that were drawn, `num_heard` those that the vote had heard.
 */
export function votesOf(model, path) {
  const votes = model.search(path)?.votes ?? [];
  const last = path === "" ? model.run?.result?.votes : null;
  if (votes.length === 0 && last?.histogram?.length) {
    const histogram = last.histogram.map((entry) => [entry.answer, entry.votes]);
    return [{ ...last, histogram, num_heard: last.num_samples }];
  }
  return votes;
}

/** A colour's number for each of the answers that lead in the end, by answer. */
function coloursOf(vote) {
  return new Map(vote.histogram.slice(0, COLOURS).map(([answer], index) => [formatValue(answer), index + 1]));
}

function totalOf(vote) {
  return vote.histogram.reduce((sum, [, votes]) => sum + votes, 0);
}

function summaryOf(vote, isLast) {
  const [leader] = vote.histogram;
  const without = vote.num_heard - vote.num_valid;
  const allowed = vote.num_allowed ? ` of ${formatCount(vote.num_allowed)} allowed` : "";
  const used = el("progress", { max: vote.num_allowed || vote.num_samples, "aria-label": "Samples used" });
  used.value = vote.num_heard;
  return [
    el(
      "div",
      { class: "fact" },
      el("h2", {}, isLast ? "Leading answer" : "Leading then"),
      el(
        "p",
        { class: "big", "data-testid": "vote-leader" },
        leader === undefined ? "none yet" : shorten(formatValue(leader[0]), 60),
      ),
      leader && el("p", { class: "quiet" }, `${formatScore(leader[1])} of ${formatScore(totalOf(vote))} votes`),
    ),
    vote.confidence !== null &&
      vote.confidence !== undefined &&
      el(
        "div",
        { class: "fact" },
        el("h2", {}, "Confidence"),
        el("p", { class: "big", "data-testid": "vote-confidence" }, formatShare(vote.confidence)),
        el("p", { class: "quiet" }, "that it is the model’s most frequent answer"),
      ),
    el(
      "div",
      { class: "fact" },
      el("h2", {}, "Samples"),
      el("p", { class: "big", "data-testid": "vote-samples" }, `${formatCount(vote.num_heard)}${allowed}`),
      used,
      without > 0 && el("p", { class: "quiet" }, `${formatCount(without)} without a valid answer`),
    ),
  ];
}

function barsOf(vote, colours, limit, unfold) {
  const total = totalOf(vote) || 1;
  const most = vote.histogram[0]?.[1] || 1;
  const shown = vote.histogram.slice(0, limit);
  const rows = shown.map(([answer, votes]) => {
    const text = formatValue(answer);
    const bar = el("span", { class: `bar series-${colours.get(text) ?? 0}` });
    bar.style.width = `${(100 * votes) / most}%`;
    return el(
      "div",
      { class: "vote-row", role: "listitem", "data-testid": "vote-row" },
      el("span", { class: "vote-answer mono", title: text }, shorten(text, 200) || "(empty)"),
      el("span", { class: "vote-track" }, bar),
      el("span", { class: "number" }, formatScore(votes)),
      el("span", { class: "number quiet" }, formatShare(votes / total)),
    );
  });
  const rest = vote.histogram.length - shown.length;
  return rest > 0 ? [...rows, el("button", { click: unfold }, `Show ${formatPlural(rest, "more answer")}`)] : rows;
}
