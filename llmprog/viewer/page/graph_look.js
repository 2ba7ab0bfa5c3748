// How thoughts look: their colours by status, score or checker, the legend of these, and the colours of the page.

import { formatCount, formatScore } from "./text.js";

/** The ways to colour thoughts, and their names. */
export const GRAPH_COLORINGS = [
  ["status", "Status"],
  ["score", "Score"],
  ["checker", "Checker"],
];

const STATUSES = ["open", "goal", "invalid", "pruned"];
const SCALE_STEPS = 4;
const SERIES = 8;

/** Marks of a thought, as bits. */
export const GRAPH_MARKS = { goal: 1, invalid: 2, pruned: 4, solution: 8, match: 16 };

/** The page's colours and fonts as they are now: light or dark. */
export function readGraphTheme(element) {
  const style = getComputedStyle(element);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    color,
    surface: color("surface"),
    ink: color("ink"),
    quiet: color("quiet"),
    line: color("line"),
    strongLine: color("line-strong"),
    link: color("series-5"),
    solution: color("solution"),
    goal: color("goal"),
    invalid: color("invalid"),
    match: color("match"),
    accent: color("accent"),
    family: style.fontFamily,
  };
}

/**
 * The look of each thought of a search.
 * @param {object} search of a `RunModel`
 * @param {string} coloring one of `GRAPH_COLORINGS`
 * @param {Set<number>} matches what a reader searched for
 * @returns {{codes: Uint8Array, marks: Uint8Array, scores: number[], legend: {name: string, label: string}[]}} `codes`: the
 *   entry of `legend` by id, whose `name` is that of a colour; `scores`: NaN of what nobody judged
 */
export function looksOf(search, coloring, matches) {
  const { thoughts, solution } = search;
  const statuses = thoughts.map((thought) => thought.status);
  const scores = thoughts.map((thought) => (thought.verdicts.length > 0 ? thought.score : NaN));
  const marks = new Uint8Array(thoughts.length);
  thoughts.forEach((thought, id) => {
    const own = GRAPH_MARKS[statuses[id]] ?? 0;
    marks[id] = own | (solution.has(id) ? GRAPH_MARKS.solution : 0) | (matches.has(id) ? GRAPH_MARKS.match : 0);
  });
  const colors = { status: byStatus, score: byScore, checker: byChecker }[coloring](thoughts, { statuses, scores });
  return { ...colors, marks, scores };
}

/**
 * What the lines of a scene mean, besides those from each thought to what was made from it.
 * @param {GraphScene} scene
 * @returns {{name: string, label: string, kind: string}[]} as in the legend of `looksOf`
 */
export function linesOf({ links, search }) {
  const isGoal = [...search.solution].some((id) => search.thoughts[id]?.goal);
  const numArrivals = links.filter((link) => link.isArrival).length;
  const numJoined = links.length - numArrivals;
  return [
    search.solution.size > 0 && {
      name: "solution",
      label: isGoal ? "way to the solution" : "way to the best so far",
      kind: "is-line",
    },
    numJoined > 0 && {
      name: "series-5",
      label: `another parent, joined (${formatCount(numJoined)})`,
      kind: "is-line",
    },
    numArrivals > 0 && {
      name: "series-5",
      label: `another way, merged (${formatCount(numArrivals)})`,
      kind: "is-dashed",
    },
  ].filter(Boolean);
}

function byStatus(thoughts, { statuses }) {
  const codes = new Uint8Array(thoughts.length);
  thoughts.forEach((_, id) => {
    codes[id] = STATUSES.indexOf(statuses[id]);
  });
  return { codes, legend: STATUSES.map((status) => ({ name: status, label: status })) };
}

/** By the place of a score among all that were given: a few very large ones do not make all others look the same. */
function byScore(thoughts, { scores }) {
  const ranked = [...new Set(scores.filter((score) => !Number.isNaN(score)))].sort((one, other) => one - other);
  const steps = new Map();
  const legend = [{ name: "line-strong", label: "no score" }];
  for (let step = 0; step < SCALE_STEPS; step += 1) {
    const from = Math.ceil((step * ranked.length) / SCALE_STEPS);
    const to = Math.ceil(((step + 1) * ranked.length) / SCALE_STEPS);
    if (from === to) {
      continue;
    }
    const [least, most] = [formatScore(ranked[from]), formatScore(ranked[to - 1])];
    legend.push({ name: `scale-${step + 1}`, label: least === most ? least : `${least} to ${most}` });
    ranked.slice(from, to).forEach((score) => steps.set(score, legend.length - 1));
  }
  const codes = new Uint8Array(thoughts.length);
  thoughts.forEach((_, id) => {
    codes[id] = steps.get(scores[id]) ?? 0;
  });
  return { codes, legend };
}

/** By the checker that decided: the first that refused the thought, else the last that judged it. */
function byChecker(thoughts) {
  const legend = [{ name: "line-strong", label: "not judged" }];
  const places = new Map();
  const codes = new Uint8Array(thoughts.length);
  thoughts.forEach((thought, id) => {
    const decider = thought.verdicts.find((verdict) => !verdict.valid) ?? thought.verdicts.at(-1);
    if (decider === undefined) {
      return;
    }
    if (!places.has(decider.checker)) {
      const color = places.size % SERIES;
      // Beyond as many checkers as there are colours, those of one colour share an entry.
      if (places.size < SERIES) {
        legend.push({ name: `series-${color + 1}`, label: decider.checker });
      } else {
        legend[color + 1].label += `, ${decider.checker}`;
      }
      places.set(decider.checker, color + 1);
    }
    codes[id] = places.get(decider.checker);
  });
  return { codes, legend };
}
