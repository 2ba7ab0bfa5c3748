// The tables of a run: its thoughts, its calls, the rows of a job.

import { isTakenOver } from "./model.js";
import { statusChip } from "./thought_pane.js";
import { el, formatCount, formatDuration, formatScore, formatShare, formatUsd, formatValue, shorten } from "./text.js";
import { createVirtualTable } from "./virtual_table.js";

/** The thoughts of a search as a table. */
export function createThoughtsTable({ model, path, onSelect }) {
  const table = createVirtualTable({
    label: "Thoughts",
    testid: "thoughts",
    empty: "No thought yet.",
    columns: [
      { title: "number", width: "3.6rem", isNumber: true, cell: (thought) => thought.id },
      { title: "status", width: "9.5rem", cell: statusChip },
      { title: "state", width: "minmax(12rem, 1fr)", cell: (thought) => shorten(thought.state, 200) || "(empty)" },
      {
        title: "score",
        width: "4.5rem",
        isNumber: true,
        cell: (t) => (t.verdicts.length > 0 ? formatScore(t.score) : ""),
      },
      { title: "depth", width: "3.2rem", isNumber: true, cell: (thought) => thought.depth },
      { title: "made by", width: "8rem", cell: (thought) => thought.node },
    ],
    signature: (thought) => `${thought.status} ${thought.score}`,
    onSelect: (thought) => onSelect(thought.id),
  });
  return {
    element: table.element,
    update: () => table.setRows((model.search(path)?.thoughts ?? []).filter((thought) => thought !== undefined)),
    select: (id) => table.mark((thought) => thought.id === id),
    setPath(given) {
      path = given;
      this.update();
    },
  };
}

/** The calls of a run as a table. */
export function createCallsTable({ model, onSelectCall }) {
  const usage = (call, name) => call.outcome?.usage?.[name];
  const count = (value) => (value === undefined ? "" : formatCount(value));
  const table = createVirtualTable({
    label: "Calls",
    testid: "calls",
    empty: "No call was made.",
    columns: [
      { title: "number", width: "3.6rem", isNumber: true, cell: (call) => call.id },
      ...(model.paths().length > 1 ? [{ title: "of", width: "4rem", cell: (call) => call.path }] : []),
      { title: "node", width: "minmax(7rem, 1fr)", cell: (call) => call.node },
      { title: "backend", width: "minmax(6.5rem, 0.8fr)", cell: (call) => call.backend },
      { title: "sample", width: "4rem", isNumber: true, cell: samplesText },
      {
        title: "sent",
        width: "4.5rem",
        isNumber: true,
        cell: (call) => (isTakenOver(call) ? "" : formatDuration(call.sent_at)),
      },
      { title: "took", width: "5rem", isNumber: true, cell: tookText },
      { title: "read", width: "3.6rem", isNumber: true, cell: (call) => count(usage(call, "prompt_tokens")) },
      { title: "wrote", width: "3.6rem", isNumber: true, cell: (call) => count(usage(call, "completion_tokens")) },
      {
        title: "cost",
        width: "4.5rem",
        isNumber: true,
        cell: (call) => (call.outcome?.usage ? formatUsd(usage(call, "usd")) : ""),
      },
      { title: "retries", width: "3.4rem", isNumber: true, cell: (call) => call.attempts.length || "" },
    ],
    signature: (call) => `${call.outcome?.state} ${call.attempts.length}`,
    onSelect: (call) => onSelectCall(call.id),
  });
  return {
    element: table.element,
    update: () => table.setRows([...model.calls.values()]),
    select: (id) => table.mark((call) => call.id === id),
  };
}

/** The rows of a job as a table; what the right answers were, where it was told of any. */
export function createRowsTable({ model, onSelectRow }) {
  const isJudged = formatValue(model.run?.input?.gold) !== "";
  const judgement = [
    { title: "correct", width: "5rem", cell: (row) => ({ true: "yes", false: "no" })[row.correct] ?? "" },
    { title: "right answer", width: "minmax(7rem, 0.6fr)", cell: (row) => shorten(formatValue(row.gold), 200) },
  ];
  const share = (value) => (typeof value === "number" ? formatShare(value) : "");
  const table = createVirtualTable({
    label: "Rows",
    testid: "rows",
    empty: "No row is finished yet.",
    columns: [
      { title: "row", width: "3.6rem", isNumber: true, cell: (row) => row.number },
      { title: "answer", width: "minmax(10rem, 1fr)", cell: (row) => shorten(formatValue(row.answer), 200) },
      ...(isJudged ? judgement : []),
      { title: "confidence", width: "5.6rem", isNumber: true, cell: (row) => share(row.confidence) },
      { title: "calls", width: "3.6rem", isNumber: true, cell: (row) => row.usage && formatCount(row.usage.calls) },
      { title: "cost", width: "4.5rem", isNumber: true, cell: (row) => row.usage && formatUsd(row.usage.usd) },
      { title: "stopped", width: "8rem", cell: (row) => formatValue(row.stopped) },
      {
        title: "error",
        width: "minmax(8rem, 1fr)",
        cell: (row) => shorten(formatValue(row.error?.message ?? row.error), 200),
      },
    ],
    signature: (row) => JSON.stringify(row),
    onSelect: (row) => onSelectRow(row.number),
  });
  return {
    element: table.element,
    update: () => table.setRows([...model.rows.values()].sort((one, other) => one.number - other.number)),
  };
}

function tookText(call) {
  const { outcome } = call;
  const isAnswered = outcome?.state === "settled" && outcome.source === "model";
  const text = isAnswered
    ? formatDuration(outcome.duration_s)
    : outcome?.state === "settled"
      ? outcome.source
      : (outcome?.state ?? "…");
  return outcome?.state === "failed" ? el("span", { class: "fault" }, text) : text;
}

function samplesText(call) {
  if (call.num_samples === 0) {
    return "scores";
  }
  const last = call.first_sample + call.num_samples - 1;
  return call.num_samples === 1 ? call.first_sample : `${call.first_sample}–${last}`;
}
