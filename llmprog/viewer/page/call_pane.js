// All there is to say about one call: what was asked, what came back, how long it took, what was made of it.

import { isTakenOver } from "./model.js";
import { completionView, foldedCompletion, paramsText, questionView, scoresView } from "./question_view.js";
import { createSections, fetched } from "./sections.js";
import { callState, createThoughtLinks } from "./thought_pane.js";
import { el, formatCount, formatDuration, formatUsd } from "./text.js";

/**
 * The pane of a call.
 * @param {object} options
 * @param {RunModel} options.model
 * @param {number} options.id
 * @param {function(number): Promise<object>} options.loadCall gives the details of a call
 * @param {function(string, number)} options.onSelect called with the path and the thought to go to
 * @returns {{element: HTMLElement, update: function()}}
 */
export function createCallPane({ model, id, loadCall, onSelect }) {
  const call = () => model.calls.get(id);
  const links = createThoughtLinks(
    () => model.search(call().path),
    (thought) => onSelect(call().path, thought),
  );
  const made = () => thoughtsOf(model, call());
  const resting = () => restingOn(model, call());
  const outcome = () => `${call().outcome?.state} ${call().attempts.length}`;

  const sections = createSections([
    {
      title: "",
      testid: "call-head",
      signature: () => `${outcome()} ${model.run?.is_live}`,
      build: () => head(call(), model.run?.is_live),
    },
    {
      title: "Failed attempts",
      testid: "call-attempts",
      signature: outcome,
      build: () => call().attempts.map(attemptView),
    },
    {
      title: "Made from it",
      testid: "call-thoughts",
      signature: () => String(made().length),
      build: () => made().length > 0 && links(made()),
    },
    {
      title: "Judged with it",
      testid: "call-judged",
      signature: () => String(resting().length),
      build: () => resting().length > 0 && links(resting()),
    },
    {
      title: "What came back",
      testid: "call-answers",
      signature: outcome,
      build: () => call().outcome?.state === "settled" && fetched(() => loadCall(id), answers),
    },
    {
      title: "What was asked",
      testid: "call-question",
      signature: () => String(id),
      build: () =>
        fetched(
          () => loadCall(id),
          (details) => [
            questionView(details.question),
            el("p", { class: "facts quiet" }, paramsText(details.question.params)),
          ],
        ),
    },
  ]);

  return {
    element: sections.element,
    update() {
      if (call() !== undefined) {
        sections.update();
      }
    },
  };
}

function head(call, isLive) {
  const { outcome } = call;
  const usage = outcome?.usage;
  const state = outcome === null ? (isLive ? "under way" : "cut off: it may have been answered") : outcome.state;
  const samples =
    call.num_samples === 0
      ? "likelihoods"
      : `samples ${call.first_sample} to ${call.first_sample + call.num_samples - 1}`;
  const facts = [
    ["node", el("code", {}, call.node)],
    ["backend", el("code", {}, call.backend)],
    ["asked for", call.num_samples === 1 ? `sample ${call.first_sample}` : samples],
    ...(isTakenOver(call) ? [] : [["sent", `after ${formatDuration(call.sent_at)}`]]),
    ["took", tookText(call)],
  ];
  if (usage) {
    const cached = usage.cached_tokens ? `, ${formatCount(usage.cached_tokens)} of them cached` : "";
    facts.push(["read", `${formatCount(usage.prompt_tokens)} tokens${cached}`]);
    const reasoning = usage.reasoning_tokens ? `, ${formatCount(usage.reasoning_tokens)} of them reasoning` : "";
    facts.push(["wrote", `${formatCount(usage.completion_tokens)} tokens${reasoning}`], ["cost", formatUsd(usage.usd)]);
  }
  return [
    el(
      "div",
      { class: "pane-head" },
      el("h3", { "data-testid": "call-title" }, `Call ${call.id}`),
      el("span", { class: `chip ${outcome?.state ?? "sent"}` }, state),
    ),
    el(
      "dl",
      { class: "facts-list" },
      facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
    ),
    outcome?.error && el("pre", { class: "fault" }, outcome.error),
  ];
}

function tookText(call) {
  const { outcome } = call;
  const isTimed = outcome?.state === "failed" && typeof outcome.duration_s === "number";
  return outcome === null ? "–" : isTimed ? formatDuration(outcome.duration_s) : callState(call);
}

function attemptView(attempt) {
  const status = attempt.status === null ? "no answer" : `status ${attempt.status}`;
  const began = Math.max(0, attempt.at - (attempt.duration_s ?? 0));
  const billed = attempt.is_billed ? ", may be billed" : "";
  return el(
    "div",
    { class: "attempt" },
    el(
      "p",
      { class: "quiet" },
      `after ${formatDuration(began)}, for ${formatDuration(attempt.duration_s)}: ${status}${billed}`,
    ),
    el("pre", { class: "fault" }, attempt.error),
  );
}

function answers(details) {
  if (details.scores) {
    return scoresView(details.scores);
  }
  const [first, ...others] = details.completions ?? [];
  return first === undefined ? "Nothing." : [completionView(first), others.map(foldedCompletion)];
}

function thoughtsOf(model, call) {
  const isFrom = (thought) =>
    thought.question === call.question &&
    thought.sample >= call.first_sample &&
    thought.sample < call.first_sample + call.num_samples;
  return (model.search(call.path)?.thoughts ?? []).filter(isFrom).map((thought) => thought.id);
}

function restingOn(model, call) {
  const rests = (thought) => thought.verdicts.some((verdict) => verdict.questions?.includes(call.question));
  return (model.search(call.path)?.thoughts ?? []).filter(rests).map((thought) => thought.id);
}
