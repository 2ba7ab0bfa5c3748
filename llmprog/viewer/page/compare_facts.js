// What two runs were and what they came to, line by line, with what differs marked.

import { outcomeOf } from "./run_header.js";
import { el, formatCount, formatDuration, formatMoment, formatUsd, formatValue, shorten } from "./text.js";

const FACTS = [
  ["status", (run) => run.status],
  ["program", (run) => run.program],
  ["input", (run) => formatValue(run.input)],
  ["answer", (run) => outcomeOf(run).text || outcomeOf(run).note],
  ["solved", (run) => (run.result ? (run.result.solved ? "yes" : "no") : "")],
  ["stopped", (run) => formatValue(run.result?.stopped)],
  ["backend", (run) => formatValue(run.backend)],
  ["settings", (run) => (run.settings ?? []).join(", ")],
  ["seed", (run) => formatValue(run.seed)],
  [
    "versions",
    (run) =>
      Object.entries(run.versions ?? {})
        .map(([name, version]) => `${name} ${version}`)
        .join(", "),
  ],
];
const NUMBERS = [
  ["began", (run) => run.began_at, formatMoment],
  ["took", (run) => run.elapsed_s, formatDuration],
  ["calls", (run) => run.usage?.calls, formatCount],
  ["tokens read", (run) => run.usage?.prompt_tokens, formatCount],
  ["tokens written", (run) => run.usage?.completion_tokens, formatCount],
  ["recalled from the cache", (run) => run.usage?.cache_hits, formatCount],
  ["cost", (run) => run.usage?.usd, formatUsd],
];

/** The table of two runs' facts, and below it what differs in their programs. */
export function compareFacts(one, other) {
  const texts = FACTS.map(([name, read]) => {
    const [left, right] = [read(one), read(other)];
    return factRow(name, left, right, left !== right, left === right ? "" : "differs");
  });
  const numbers = NUMBERS.map(([name, read, format]) => {
    const values = [read(one), read(other)];
    const isKnown = values.every((value) => typeof value === "number");
    const shown = values.map((value) => (value === undefined || value === null ? "" : format(value)));
    return factRow(name, ...shown, false, isKnown && name !== "began" ? moreText(...values) : "");
  });
  return [
    el(
      "table",
      { class: "facts-table" },
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          ["", "left", "right", ""].map((name) => el("th", { scope: "col" }, name)),
        ),
      ),
      el("tbody", {}, texts, numbers),
    ),
    one.program_text !== other.program_text && programsView(one.program_text ?? "", other.program_text ?? ""),
  ];
}

function factRow(name, left, right, differs, note) {
  if (left === "" && right === "") {
    return null;
  }
  return el(
    "tr",
    { class: differs && "differs", "data-fact": name },
    el("th", { scope: "row" }, name),
    [left, right].map((text) =>
      el("td", { class: "mono", title: text.length > 200 ? text : null }, shorten(text, 200)),
    ),
    el("td", { class: "quiet" }, note),
  );
}

/** How much more the second is than the first: +4 %, −25 %, ×2.5. */
function moreText(one, other) {
  if (one <= 0 || other <= 0 || one === other) {
    return "";
  }
  const times = other / one;
  if (times >= 2 || times <= 0.5) {
    return `×${Number(times.toPrecision(2))}`;
  }
  const percent = Math.round(100 * (times - 1));
  return percent === 0 ? "" : `${percent > 0 ? "+" : "−"}${Math.abs(percent)} %`;
}

/** Two programs, lines that only one of them has marked. */
function programsView(left, right) {
  const [one, other] = [left.split("\n"), right.split("\n")];
  const side = (lines, others) => {
    const known = new Set(others);
    return el(
      "pre",
      {},
      lines.map((line) => el("span", { class: known.has(line) ? "line" : "line differs" }, line, "\n")),
    );
  };
  return el(
    "details",
    { class: "programs", "data-testid": "compare-programs" },
    el("summary", {}, "The programs differ"),
    el("div", { class: "compare-sides" }, side(one, other), side(other, one)),
  );
}
