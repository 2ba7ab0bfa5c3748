// Two runs side by side: what they are, what they cost, their votes and graphs, and the thoughts that both have.

import { compareFacts } from "./compare_facts.js";
import { createConnectionLine } from "./follow.js";
import { createGraphView } from "./graph_view.js";
import { commonPaths, createSearchChoice } from "./compare_searches.js";
import { RunModel } from "./model.js";
import { runStatus } from "./run_header.js";
import { statusChip } from "./thought_pane.js";
import { el, fill, formatCount, formatPlural, formatScore, shorten } from "./text.js";
import { createVirtualTable } from "./virtual_table.js";
import { createVoteView, votesOf } from "./vote_view.js";

/**
 * The page of two runs.
 * @param {object} options
 * @param {LiveSource} options.source
 * @param {string[]} options.ids the two runs
 * @param {URLSearchParams} options.params `path`: the search of both that is compared; or `left` and `right`, each its own
 * @param {function(object)} options.onPlace called with the params of the place that is shown
 * @returns {{element: HTMLElement, goTo: function(URLSearchParams), destroy: function()}}
 */
export function createComparePage({ source, ids, params, onPlace }) {
  const facts = el("div", { class: "compare-facts", "data-testid": "compare-facts" });
  const shared = el("p", { class: "quiet", role: "status", "data-testid": "compare-shared" });
  const place = placeOf(params);
  const sides = ids.map((id, index) =>
    createSide({ source, id, onChange: refresh, onSelect: (thought) => select(index, thought) }),
  );
  const table = createVirtualTable({
    label: "Thoughts that both runs have",
    testid: "twins",
    empty: "No thought is in both.",
    columns: [
      { title: "state", width: "minmax(14rem, 1fr)", cell: ({ twins: [one] }) => shorten(one.full, 200) || "(empty)" },
      ...sides.flatMap((_, index) => [
        { title: index === 0 ? "left" : "right", width: "11rem", cell: ({ twins }) => statusChip(twins[index]) },
        { title: "score", width: "6rem", isNumber: true, cell: ({ twins }) => scoreText(twins[index]) },
      ]),
      { title: "", width: "7rem", cell: ({ isSame }) => !isSame && el("span", { class: "differs" }, "differs") },
    ],
    signature: ({ twins }) => twins.map((thought) => `${thought.id} ${thought.status} ${thought.score}`).join(),
    onSelect: ({ twins }) => select(0, twins[0].id),
  });
  // Until both searches are there, nothing can be said of what they share.
  const list = el(
    "section",
    { class: "twins", hidden: true },
    el("h2", {}, "Thoughts of both"),
    shared,
    table.element,
  );
  const choice = createSearchChoice({ onChoose: choosePath, onJoin: joinPaths });
  const element = el(
    "article",
    { class: "compare-page", "data-testid": "compare-page" },
    el(
      "div",
      { class: "compare-sides" },
      sides.map((side) => side.head),
    ),
    facts,
    choice.element,
    el(
      "div",
      { class: "compare-sides" },
      sides.map((side) => side.votes),
    ),
    el(
      "div",
      { class: "compare-sides graphs" },
      sides.map((side) => side.graph),
    ),
    list,
  );
  let factsSign = "";
  let shownTwins = [];
  let twins = [];

  function refresh() {
    const [one, other] = sides.map((side) => side.model);
    const paths = shownPaths();
    sides.forEach((side, index) => side.model.run !== null && side.show(paths[index]));
    if (one.run === null || other.run === null) {
      return;
    }
    document.title = `${shorten(one.run.program, 20)} and ${shorten(other.run.program, 20)} · llmprog`;
    choice.show([one, other], paths, !place.isEach);
    const sign = JSON.stringify([one.run, other.run]);
    if (sign !== factsSign) {
      factsSign = sign;
      fill(facts, compareFacts(one.run, other.run));
    }
    const searches = sides.map((side, index) => side.model.search(paths[index]));
    // By the searches themselves: another one, or the same told anew, may be as old as the one that is shown.
    const next = searches.flatMap((search) => [search, search?.revision]);
    if (next.some((part, index) => part !== shownTwins[index]) && searches.every((search) => search !== undefined)) {
      shownTwins = next;
      list.hidden = false;
      twins = twinsOf(...searches);
      table.setRows(twins);
      sides.forEach((side, index) => side.mark(new Set(twins.map((pair) => pair.twins[index].id))));
      const [left, right] = searches.map((search) => search.thoughts.length - twins.length);
      const counts = `${formatPlural(twins.length, "thought")} in both runs, ${formatCount(left)} only left, ${formatCount(right)} only right.`;
      fill(shared, `${counts} In the graphs, those of both are outlined.`);
    }
  }

  /** The paths of the searches that are shown: as chosen, else the whole, else the first of both, else of each its own. */
  function shownPaths() {
    const models = sides.map((side) => side.model);
    const common = commonPaths(models);
    const of = (model, chosen) => (model.search(chosen) === undefined ? (model.paths()[0] ?? "") : chosen);
    if (!place.isEach && common.length > 0) {
      const both = common.includes(place.path) ? place.path : common[0];
      return [both, both];
    }
    return [of(models[0], place.left ?? place.path), of(models[1], place.right ?? place.path)];
  }

  /** Show another search of one run, and of the other the same if they go together and it has that. */
  function choosePath(index, path) {
    const paths = shownPaths();
    const isOfBoth = sides[1 - index].model.search(path) !== undefined;
    const isJoined = !place.isEach && isOfBoth;
    paths[index] = path;
    settle(isJoined, isJoined ? [path, path] : paths);
  }

  /** Let both runs show the same search from now on, or each its own. */
  function joinPaths(isOn) {
    const paths = shownPaths();
    const common = commonPaths(sides.map((side) => side.model));
    const both = paths.find((path) => common.includes(path)) ?? common[0];
    settle(isOn, isOn ? [both, both] : paths);
  }

  function settle(isJoined, [left, right]) {
    Object.assign(place, isJoined ? { path: left, left: null, right: null } : { path: null, left, right });
    place.isEach = !isJoined;
    // Said besides: of the paths in an address that of the whole, which is empty, is left out.
    onPlace({ each: isJoined ? null : "yes", path: place.path, left: place.left, right: place.right });
    refresh();
  }

  /** Select a thought of one run, and its twin in the other. */
  function select(index, thought) {
    const found = twins.find((pair) => pair.twins[index].id === thought) ?? null;
    table.mark((pair) => pair === found);
    sides.forEach((side, i) =>
      side.select(i === index ? thought : (found?.twins[i].id ?? null), found !== null, thought !== null),
    );
  }

  return {
    element,
    goTo(given) {
      Object.assign(place, placeOf(given));
      refresh();
    },
    destroy() {
      sides.forEach((side) => side.destroy());
    },
  };
}

function placeOf(params) {
  const [path, left, right] = ["path", "left", "right"].map((name) => params.get(name));
  return { path, left, right, isEach: params.has("each") || left !== null || right !== null };
}

/** Thoughts with the same state in two searches, each in one pair, in the order of the first search. */
function twinsOf(one, other) {
  const byState = new Map();
  for (const thought of other.thoughts) {
    if (thought !== undefined) {
      byState.set(thought.full, [...(byState.get(thought.full) ?? []), thought]);
    }
  }
  const pairs = [];
  for (const thought of one.thoughts) {
    const twin = thought === undefined ? undefined : byState.get(thought.full)?.shift();
    if (twin !== undefined) {
      pairs.push({
        twins: [thought, twin],
        isSame: thought.status === twin.status && scoreText(thought) === scoreText(twin),
      });
    }
  }
  return pairs;
}

function scoreText(thought) {
  return thought.verdicts.length > 0 ? formatScore(thought.score) : "";
}

/** One of the two: its model, its head, its vote and its graph. */
function createSide({ source, id, onChange, onSelect }) {
  const model = new RunModel();
  const head = el("header", { class: "compare-head" });
  const connection = createConnectionLine();
  const votes = el("div", { class: "compare-votes", hidden: true });
  const said = el("p", { class: "compare-said", role: "status", "data-testid": "compare-said" });
  const graph = el("div", { class: "compare-graph" }, said);
  let voteView = null;
  let graphView = null;
  let path = null;

  model.onChange(onChange);
  const stop = source.follow(id, (batch) => model.apply(batch), connection.show);

  return {
    model,
    head: el("div", {}, head, connection.element),
    votes,
    graph,
    show(next) {
      const link = el("a", { href: `#/run/${encodeURIComponent(model.run.id)}` }, model.run.id);
      fill(head, el("h1", {}, shorten(model.run.program, 60)), runStatus(model.run.status), el("code", {}, link));
      if (graphView === null) {
        voteView = createVoteView({ model, path: next });
        graphView = createGraphView({ model, path: next, onSelect });
        votes.append(voteView.element);
        graph.append(graphView.element);
      } else if (next !== path) {
        voteView.setPath(next);
        graphView.setPath(next);
      }
      path = next;
      votes.hidden = votesOf(model, path).length === 0;
      voteView.update();
      graphView.update();
    },
    select(thought, isInBoth, isAny) {
      graphView.select(thought);
      const state = thought === null ? "" : shorten(model.search(path).thoughts[thought].state, 80);
      const words =
        thought === null ? "not in this run" : `thought ${thought}${isInBoth ? ", in both" : ", only here"}: ${state}`;
      fill(said, isAny && words);
    },
    /** Outline the thoughts that the other run has, too. */
    mark(ids) {
      graphView.mark(ids);
    },
    destroy() {
      stop();
      voteView?.destroy();
      graphView?.destroy();
    },
  };
}
