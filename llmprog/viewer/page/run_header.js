// The head of a run: what it is, what came of it, what it cost, whether it is under way.

import { createSections } from "./sections.js";
import { el, shorten } from "./text.js";
import { formatCount, formatDuration, formatMoment, formatPlural, formatShare, formatUsd, formatValue } from "./text.js";

const STATUS_TITLES = {
  running: "a process is at work on it",
  interrupted: "it did not end, and no process is at work on it; it can be resumed",
  finished: "it ran to its end",
  stopped: "a budget or an interrupt ended it",
  failed: "an error ended it; it can be resumed",
  unreadable: "it cannot be read",
};

const STOPPED = new Map([
  ["interrupted", "it was interrupted"],
  ["exhausted", "all that could be tried was tried"],
  ["max_depth", "no goal within the greatest depth"],
]);

const EACH_SAMPLE = "as budgets count them: a call that asks for several samples counts once for each";

/**
 * The head of a run.
 * @param {{model: RunModel}} options
 * @returns {{element: HTMLElement, update: function()}}
 */
export function createRunHeader({ model }) {
  const run = () => model.run;
  const sections = createSections([
    {
      title: "",
      testid: "run-title",
      signature: () => JSON.stringify([run().status, run().program, run().id, run().forked_from]),
      build: () => titleLine(run()),
    },
    {
      title: "",
      testid: "run-answer",
      signature: () => JSON.stringify([run().result, run().status, run().input, run().problem]),
      build: () => el("div", { class: "run-io" }, inputBlock(run()), answerBlock(run())),
    },
    {
      title: "",
      testid: "run-facts",
      signature: () =>
        JSON.stringify([run().usage, Math.round(run().elapsed_s * 10), run().backend, run().seed, model.rows.size]),
      build: () => factsLine(model),
    },
    {
      title: "",
      testid: "run-failures",
      signature: () => JSON.stringify(run().failures),
      build: () => failuresBlock(run().failures ?? []),
    },
    {
      title: "",
      testid: "run-left-out",
      signature: () => JSON.stringify(run().left_out),
      build: () => leftOut(run().left_out ?? {}),
    },
  ]);
  sections.element.classList.add("run-header");
  return {
    element: sections.element,
    update() {
      if (model.run !== null) {
        sections.update();
      }
    },
  };
}

/** The status of a run in a coloured word; a dot breathes while it runs. */
export function runStatus(status) {
  return el(
    "span",
    { class: `run-status ${status}`, title: STATUS_TITLES[status], "data-testid": "run-status" },
    el("span", { class: "dot", "aria-hidden": "true" }),
    status,
  );
}

/** What came of a run: `{text, isSolved, note}`; the text is empty where there is nothing yet. */
export function outcomeOf(run) {
  const result = run.result ?? {};
  if (run.kind === "map" && !run.problem) {
    return { text: jobText(result), isSolved: false, note: "" };
  }
  const answer = formatValue(result.answer);
  if (result.solved) {
    return { text: answer, isSolved: true, note: "" };
  }
  if (run.problem) {
    return { text: "", isSolved: false, note: run.problem };
  }
  if (result.error) {
    return { text: answer, isSolved: false, note: formatValue(result.error.message ?? result.error) };
  }
  if (run.result === null || run.result === undefined) {
    return { text: "", isSolved: false, note: "" };
  }
  const shortfall = result.shortfall ? `the budget is spent: ${formatValue(result.shortfall)}` : null;
  const why =
    result.explanation ?? shortfall ?? STOPPED.get(result.stopped) ?? `it stopped: ${formatValue(result.stopped)}`;
  return { text: answer, isSolved: false, note: formatValue(why) };
}

/** What a job came to: how many rows were solved, how many answers were right, and how sure that is. */
function jobText(result) {
  if (result.rows === undefined) {
    return "";
  }
  const parts = [`${formatCount(result.solved)} of ${formatPlural(result.rows, "row")} answered`];
  if (result.accuracy) {
    const { value, low, high } = result.accuracy;
    const interval = `${formatShare(value)}, with 95 % confidence ${formatShare(low)} to ${formatShare(high)}`;
    parts.push(`${formatCount(result.correct)} of ${formatCount(result.judged)} right (${interval})`);
  }
  if (result.failed > 0) {
    parts.push(`${formatCount(result.failed)} failed`);
  }
  return parts.join(", ");
}

function titleLine(run) {
  return el(
    "div",
    { class: "run-title" },
    el("h1", { title: run.program }, shorten(run.program, 80) || "a run"),
    runStatus(run.status),
    el("code", { class: "quiet" }, run.id),
    run.forked_from &&
      el("span", { class: "quiet" }, "forked from ", el("a", { href: `#/run/${run.forked_from}` }, run.forked_from)),
  );
}

function inputBlock(run) {
  if (run.kind !== "map" || typeof run.input !== "object") {
    return longText("Input", formatValue(run.input), "run-input");
  }
  const columns = Object.entries(run.input ?? {}).filter(([, column]) => column !== null);
  const text = columns.map(([what, column]) => `${what}: ${formatValue(column)}`).join(", ");
  return text && longText("Columns", text, "run-input");
}

function answerBlock(run) {
  const outcome = outcomeOf(run);
  if (run.kind === "map" && outcome.text) {
    return longText("Result", outcome.text, "run-outcome");
  }
  if (outcome.isSolved) {
    return longText("Answer", outcome.text, "run-outcome", "solved");
  }
  if (!outcome.text && !outcome.note) {
    return null;
  }
  return [
    outcome.note && longText(outcome.text ? "Not solved" : "No answer", outcome.note, "run-outcome", "unsolved"),
    outcome.text && longText("Best so far", outcome.text, "run-best"),
  ];
}

/** A text with a name: in full where it is short, else its beginning, which unfolds. */
function longText(name, text, testid, kind = "") {
  const isShort = text.length <= 160 && !text.includes("\n");
  return el(
    "div",
    { class: `io ${kind}`, "data-testid": testid },
    el("h2", {}, name),
    isShort
      ? el("p", { class: "mono" }, text)
      : el("details", {}, el("summary", { class: "mono" }, shorten(text, 120)), el("pre", {}, text)),
  );
}

function factsLine(model) {
  const { run } = model;
  const usage = run.usage ?? {};
  const cacheHits = usage.cache_hits ? `, ${formatCount(usage.cache_hits)} recalled` : "";
  const reasoning = usage.reasoning_tokens ? `, ${formatCount(usage.reasoning_tokens)} reasoning` : "";
  const facts = [
    ["calls", `${formatCount(usage.calls ?? 0)}${cacheHits}`, EACH_SAMPLE],
    [
      "tokens",
      `${formatCount(usage.prompt_tokens ?? 0)} read, ${formatCount(usage.completion_tokens ?? 0)} written${reasoning}`,
    ],
    ["cost", formatUsd(usage.usd)],
    ["took", formatDuration(run.elapsed_s)],
    ["began", formatMoment(run.began_at)],
    ["backend", run.backend],
    ["seed", run.seed],
  ];
  if (run.kind === "map") {
    facts.unshift(["rows", formatCount(Math.max(run.rows ?? 0, model.rows.size))]);
  }
  const shown = facts.filter(([, value]) => value !== null && value !== undefined);
  const versions = Object.entries(run.versions ?? {}).map(([name, version]) => `${name} ${version}`);
  return el(
    "dl",
    { class: "run-facts", title: versions.join(", ") },
    shown.map(([name, value, title]) =>
      el("div", { "data-fact": name, title }, el("dt", {}, name), el("dd", {}, formatValue(value))),
    ),
  );
}

/** What the page does not have, since a browser could not hold it. */
function leftOut(counts) {
  const parts = Object.entries(counts)
    .filter(([, count]) => count > 0)
    .map(([what, count]) => `${formatCount(count)} ${what}`);
  return (
    parts.length > 0 && `Not shown, since there are so many: ${parts.join(", ")}. An export as jsonl has all of them.`
  );
}

function failuresBlock(failures) {
  if (failures.length === 0) {
    return null;
  }
  const total = failures.reduce((sum, failure) => sum + failure.count, 0);
  return el(
    "details",
    { class: "failures" },
    el("summary", {}, `${formatPlural(total, "failure")} of calls and attempts`),
    failures.map((failure) =>
      el(
        "div",
        { class: "failure" },
        el("span", { class: "number" }, `${formatCount(failure.count)} ×`),
        el("span", { class: "quiet" }, failure.of),
        el("pre", {}, failure.error),
      ),
    ),
  );
}
