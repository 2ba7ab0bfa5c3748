// All there is to say about one thought: what it is, where it came from, what was said of it, what it cost.

import { completionView, foldedCompletion, paramsText, questionView } from "./question_view.js";
import { createSections, fetched } from "./sections.js";
import { el, formatDuration, formatPlural, formatScore, formatUsd, shorten } from "./text.js";

const LINKS_AT_ONCE = 40;
const CALLS_AT_ONCE = 20;
const MEANINGS = {
  goal: "It reaches the goal",
  invalid: "A checker refused it",
  pruned: "The search gave it up",
  open: "Nothing refused it",
};

/**
 * The pane of a thought.
 * @param {object} options
 * @param {RunModel} options.model
 * @param {string} options.path
 * @param {number} options.id
 * @param {function(number): Promise<object>} options.loadCall gives the details of a call
 * @param {function(number)} options.onSelect called with the thought to go to
 * @param {function(number)} options.onSelectCall called with the call to show
 * @param {function(number, number)} options.onPlay called with question and sample whose denoising is to be played
 * @returns {{element: HTMLElement, update: function()}}
 */
export function createThoughtPane({ model, path, id, loadCall, onSelect, onSelectCall, onPlay }) {
  const search = () => model.search(path);
  const thought = () => search()?.thoughts[id];
  const links = createThoughtLinks(search, onSelect);
  const callLink = (call) => el("button", { class: "link", click: () => onSelectCall(call.id) }, `call ${call.id}`);
  const call = () => model.callOf(path, thought());

  const isRecorded = () => model.canvas(path, thought().question, thought().sample) !== undefined;

  const sections = createSections([
    {
      title: "",
      testid: "thought-head",
      signature: () => headSign(search(), thought()),
      build: () => head(search(), thought(), onSelect),
    },
    {
      title: "State",
      testid: "thought-state",
      signature: () => thought().full,
      build: () => el("pre", { class: "state" }, thought().full),
    },
    {
      title: "Answer",
      testid: "thought-answer",
      signature: () => String(thought().answer),
      build: () => thought().answer !== null && el("pre", {}, thought().answer),
    },
    {
      title: "What was said of it",
      testid: "thought-verdicts",
      signature: () => JSON.stringify([thought().verdicts, thought().prunedReason]),
      build: () => [
        thought().prunedReason !== null &&
          el(
            "p",
            { "data-testid": "pruned-reason" },
            `Pruned: ${thought().prunedReason || "the search went on with others"}`,
          ),
        thought().verdicts.map((verdict) => verdictView(verdict, verdictCalls(model, path, verdict).map(callLink))),
      ],
    },
    {
      title: "Where it came from",
      testid: "thought-origin",
      signature: () => `${call()?.id} ${thought().arrivals.length}`,
      build: () => origin(thought(), links, call(), callLink),
    },
    {
      title: "Made from it",
      testid: "thought-children",
      signature: () => String(thought().children.length),
      build: () => thought().children.length > 0 && links(thought().children),
    },
    {
      title: "The completion it was parsed from",
      testid: "thought-completion",
      signature: () => `${call()?.id} ${call()?.outcome?.state} ${isRecorded()}`,
      build: () => [
        call() &&
          fetched(
            () => loadCall(call().id),
            (details) => ownCompletion(details, thought().sample),
          ),
        isRecorded() &&
          el(
            "button",
            { "data-testid": "play", click: () => onPlay(thought().question, thought().sample) },
            "Watch it being written",
          ),
      ],
    },
    {
      title: "Other completions of the same question",
      testid: "thought-others",
      signature: () =>
        otherCalls(model, path, thought())
          .map((other) => `${other.id} ${other.outcome?.state}`)
          .join(),
      build: () => otherCompletions(model, path, thought(), loadCall),
    },
    {
      title: "Prompt",
      testid: "thought-prompt",
      signature: () => String(call()?.id),
      build: () =>
        call() &&
        fetched(
          () => loadCall(call().id),
          (details) => [
            questionView(details.question),
            el("p", { class: "facts quiet" }, paramsText(details.question.params)),
          ],
        ),
    },
    {
      title: "What it cost",
      testid: "thought-cost",
      signature: () =>
        model
          .callsOf(path, thought())
          .map((one) => `${one.id} ${one.outcome?.state}`)
          .join(),
      build: () => cost(model.callsOf(path, thought()), callLink),
    },
  ]);

  return {
    element: sections.element,
    update() {
      if (thought() !== undefined) {
        sections.update();
      }
    },
  };
}

/** Where the arrow keys lead from a thought: its parent, its first child, the siblings before and after it. */
export function neighbours(search, thought) {
  const parent = search.thoughts[thought.parents[0] ?? -1];
  const siblings = parent?.children ?? [];
  const place = siblings.indexOf(thought.id);
  return {
    ArrowUp: parent?.id ?? null,
    ArrowDown: thought.children[0] ?? null,
    ArrowLeft: siblings[place - 1] ?? null,
    ArrowRight: place < 0 ? null : (siblings[place + 1] ?? null),
  };
}

/** What makes links to thoughts of a search: a list of buttons with their states in short, the first of many. */
export function createThoughtLinks(search, onSelect) {
  const link = (id) => {
    const thought = search()?.thoughts[id];
    const text = thought === undefined ? `thought ${id}` : shorten(thought.state, 80) || "(empty)";
    return el(
      "li",
      {},
      el(
        "button",
        { class: `link thought-link ${thought?.status ?? ""}`, "data-thought": id, click: () => onSelect(id) },
        el("span", { class: "thought-number" }, id),
        el("span", {}, text),
      ),
    );
  };
  return (ids) => {
    const list = el("ul", { class: "links" }, ids.slice(0, LINKS_AT_ONCE).map(link));
    if (ids.length > LINKS_AT_ONCE) {
      const rest = el("button", {}, `Show ${ids.length - LINKS_AT_ONCE} more`);
      const item = el("li", {}, rest);
      rest.addEventListener("click", () => item.replaceWith(...ids.slice(LINKS_AT_ONCE).map(link)));
      list.append(item);
    }
    return list;
  };
}

/** What became of a thought, in a coloured word. */
export function statusChip(thought) {
  const { status } = thought;
  return el("span", { class: `chip ${status}`, title: MEANINGS[status], "data-testid": "status" }, status);
}

function headSign(search, thought) {
  return JSON.stringify([
    thought.status,
    String(thought.score),
    search.solution.has(thought.id),
    neighbours(search, thought),
  ]);
}

function head(search, thought, onSelect) {
  const next = neighbours(search, thought);
  const step = (key, sign, name) =>
    el(
      "button",
      {
        class: "step",
        "aria-label": name,
        title: `${name} (arrow key)`,
        disabled: next[key] === null,
        "data-step": key,
        click: () => onSelect(next[key]),
      },
      sign,
    );
  const isScored = thought.verdicts.length > 0;
  return [
    el(
      "div",
      { class: "pane-head" },
      el("h3", { "data-testid": "thought-title" }, `Thought ${thought.id}`),
      el(
        "div",
        { class: "steps", role: "toolbar", "aria-label": "Neighbours of this thought" },
        step("ArrowLeft", "←", "Sibling before"),
        step("ArrowUp", "↑", "Parent"),
        step("ArrowDown", "↓", "First child"),
        step("ArrowRight", "→", "Sibling after"),
      ),
    ),
    el(
      "p",
      { class: "pane-facts" },
      statusChip(thought),
      search.solution.has(thought.id) &&
        el("span", { class: "chip solution" }, search.isSolved ? "on the solution’s path" : "on the best path so far"),
      el("span", { class: "quiet" }, `depth ${thought.depth}`),
      isScored &&
        el("span", { class: "quiet" }, "score ", el("b", { "data-testid": "score" }, formatScore(thought.score))),
    ),
  ];
}

function origin(thought, links, call, callLink) {
  if (thought.parents.length === 0) {
    return el("p", {}, "It is the input: the search began with it.");
  }
  const how = (node, made) => [el("code", {}, node || "?"), made];
  const again = waysAgain(thought).map(({ arrival, count }) => {
    const times = `${count > 1 ? `, ${count} times,` : ","}${arrival.is_best ? " a better way," : ""} from`;
    return el(
      "div",
      { class: "arrival" },
      el("p", {}, "Reached again by ", how(arrival.node, times)),
      links(arrival.parents),
    );
  });
  return [
    el(
      "p",
      {},
      "Made by ",
      how(thought.node, call ? [`, sample ${thought.sample} of `, callLink(call), ","] : ","),
      thought.parents.length > 1 ? ` from ${thought.parents.length} thoughts` : " from",
    ),
    links(thought.parents),
    again,
  ];
}

/** The ways in which a thought was reached again, each once, with how often: merged states come from many samples. */
function waysAgain(thought) {
  const ways = new Map();
  for (const arrival of thought.arrivals) {
    const key = JSON.stringify([arrival.node, arrival.parents, arrival.is_best]);
    const known = ways.get(key) ?? { arrival, count: 0 };
    known.count += 1;
    ways.set(key, known);
  }
  return [...ways.values()];
}

function verdictCalls(model, path, verdict) {
  return verdict.questions.flatMap((question) => model.callsWith(path, question));
}

function verdictView(verdict, calls) {
  return el(
    "div",
    { class: `verdict ${verdict.valid ? "" : "invalid"}`, "data-testid": "verdict" },
    el(
      "p",
      {},
      el("b", {}, verdict.checker),
      el(
        "span",
        { class: "verdict-score" },
        verdict.valid ? formatScore(verdict.score) : `refused, ${formatScore(verdict.score)}`,
      ),
    ),
    verdict.reason && el("pre", {}, verdict.reason),
    calls.length > 0 &&
      el(
        "p",
        { class: "facts quiet" },
        "rests on ",
        calls.flatMap((one, i) => (i ? [", ", one] : [one])),
      ),
  );
}

function ownCompletion(details, sample) {
  const own = details.completions?.find((completion) => completion.sample === sample);
  return own === undefined ? "The call has no such completion." : completionView(own);
}

function otherCalls(model, path, thought) {
  return thought.question === null ? [] : model.callsWith(path, thought.question);
}

function otherCompletions(model, path, thought, loadCall) {
  const calls = otherCalls(model, path, thought).filter((call) => call.outcome?.state === "settled");
  const count = calls.reduce((sum, call) => sum + call.num_samples, 0) - 1;
  if (count < 1) {
    return null;
  }
  const folded = el("details", {}, el("summary", {}, formatPlural(count, "other completion")));
  const showFrom = (first) => {
    const some = calls.slice(first, first + CALLS_AT_ONCE);
    const others = async () => {
      const details = await Promise.all(some.map((call) => loadCall(call.id)));
      return details.flatMap((one) => one.completions ?? []).filter((one) => one.sample !== thought.sample);
    };
    folded.append(fetched(others, (all) => all.map(foldedCompletion)));
    if (first + CALLS_AT_ONCE < calls.length) {
      const more = el("button", {}, `Show those of ${formatPlural(calls.length - first - CALLS_AT_ONCE, "more call")}`);
      more.addEventListener("click", () => {
        more.remove();
        showFrom(first + CALLS_AT_ONCE);
      });
      folded.append(more);
    }
  };
  folded.addEventListener("toggle", () => showFrom(0), { once: true });
  return folded;
}

function cost(calls, callLink) {
  if (calls.length === 0) {
    return "No call: plain code made and judged it.";
  }
  const usages = calls.map((call) => call.outcome?.usage).filter(Boolean);
  const sum = (name) => usages.reduce((total, usage) => total + (usage[name] ?? 0), 0);
  const usd = usages.some((usage) => usage.usd === null) ? null : sum("usd");
  const tokens = `${formatPlural(sum("prompt_tokens") + sum("completion_tokens"), "token")}, ${formatUsd(usd)}`;
  const line = (call) =>
    el("li", {}, callLink(call), ` ${call.node} `, el("span", { class: "quiet" }, callState(call)));
  const rest = calls.length - LINKS_AT_ONCE;
  return [
    el("p", {}, `${formatPlural(calls.length, "call")}, ${tokens}; other thoughts may rest on them, too.`),
    el("ul", { class: "links" }, calls.slice(0, LINKS_AT_ONCE).map(line)),
    rest > 0 && el("p", { class: "quiet" }, `and ${formatPlural(rest, "more call")}, all in the tab Calls`),
  ];
}

/** What became of a call, in short. */
export function callState(call) {
  if (call.outcome === null) {
    return "no answer yet";
  }
  const source = { cache: "from the cache", fork: "from the run it was forked from" }[call.outcome.source];
  return call.outcome.state === "settled" ? (source ?? formatDuration(call.outcome.duration_s)) : call.outcome.state;
}
