// The page of a run: its head, its views in tabs, and beside them what is selected.

import { createCallPane } from "./call_pane.js";
import { createConnectionLine } from "./follow.js";
import { createGraphView } from "./graph_view.js";
import { RunModel } from "./model.js";
import { createPathChooser } from "./path_chooser.js";
import { createPlaybackView } from "./playback_view.js";
import { createRunHeader } from "./run_header.js";
import { createCallsTable, createRowsTable, createThoughtsTable } from "./run_tables.js";
import { remembered } from "./source.js";
import { createTabs } from "./tabs.js";
import { el, fill, shorten } from "./text.js";
import { createThoughtPane, neighbours } from "./thought_pane.js";
import { createTimelineView } from "./timeline_view.js";
import { createVoteView, votesOf } from "./vote_view.js";

/**
 * The page of one run.
 * @param {object} options
 * @param {LiveSource|FileSource} options.source
 * @param {string} options.id
 * @param {URLSearchParams} options.params `tab`, `path`, `thought`, `call`
 * @param {function(object, boolean)} options.onPlace called with the params of the place that is shown, and whether one
 *   gets back from it by the browser's Back
 * @returns {{element: HTMLElement, goTo: function(URLSearchParams), destroy: function()}}
 */
export function createRunPage({ source, id, params, onPlace }) {
  const model = new RunModel();
  const place = placeOf(params);
  const header = createRunHeader({ model });
  const connection = createConnectionLine();
  const chooser = createPathChooser({ label: "Search", testid: "paths", onChoose: (path) => showPath(path) });
  const views = new Map();
  const tabs = createTabs((tab) => showTab(tab));
  const stage = el("div", { class: "stage", role: "tabpanel", "data-testid": "stage" });
  const pane = el("aside", { class: "pane", "aria-label": "What is selected", tabindex: "0", "data-testid": "pane" });
  const body = el("div", { class: "run-body" }, stage, pane);
  const nowhere = el("p", { class: "nowhere", hidden: true }, el("a", { href: "#/" }, "All runs"));
  const element = el(
    "article",
    { class: "run-page is-empty", "data-testid": "run-page" },
    header.element,
    connection.element,
    nowhere,
    el("div", { class: "run-bar" }, tabs.element, chooser.element),
    body,
  );
  let shown = null;
  let paneContent = null;
  let paneKey = null;
  // By an address or a person; else it is the search of the whole as soon as there is one: a joined program tells of its
  // parts first.
  let isPathChosen = place.path !== null;

  const loadCall = remembered(
    (number) => source.call(id, number),
    (number) => model.calls.get(number)?.outcome != null,
  );
  const makers = {
    graph: (path) => createGraphView({ model, path, onSelect: select }),
    thoughts: (path) => createThoughtsTable({ model, path, onSelect: select }),
    votes: (path) => createVoteView({ model, path }),
    timeline: () => createTimelineView({ model, onSelectCall: selectCall }),
    playback: (path) =>
      createPlaybackView({
        model,
        path,
        load: (question, sample) => source.canvas(id, place.path, question, sample),
      }),
    calls: () => createCallsTable({ model, onSelectCall: selectCall }),
    rows: () => createRowsTable({ model, onSelectRow: (number) => showPath(String(number), "graph") }),
  };

  function select(thought) {
    settle({ thought, call: null });
  }

  function selectCall(call) {
    settle({ thought: null, call });
  }

  function showTab(tab) {
    settle({ tab });
  }

  function showPath(path, tab = place.tab) {
    settle({ path, tab, thought: null, call: null });
  }

  function play(question, sample) {
    settle({ tab: "playback" });
    views.get("playback").show(question, sample);
  }

  /** Go to another place of the run: what is not given stays. */
  function settle(change) {
    isPathChosen ||= [change.path, change.thought, change.call].some((chosen) => chosen != null);
    const isStep = ["tab", "path"].some((name) => name in change && change[name] !== place[name]);
    Object.assign(place, change);
    show();
    onPlace(place, isStep);
  }

  /** The view of a tab, made when it is first shown, at the path of this place. */
  function viewOf(tab) {
    if (!views.has(tab)) {
      views.set(tab, { path: place.path, selected: null, ...makers[tab](place.path ?? "") });
    }
    const view = views.get(tab);
    if (view.path !== place.path) {
      view.path = place.path;
      view.selected = null;
      view.setPath?.(place.path ?? "");
    }
    return view;
  }

  function show() {
    if (model.run === null) {
      return;
    }
    // Which searches there are may come later than the run itself.
    if (!isPathChosen && model.search("") !== undefined) {
      place.path = "";
    }
    place.path ??= model.paths()[0] ?? null;
    const available = availableTabs(model, place.path ?? "");
    place.tab ??= model.run.kind === "map" ? "rows" : "graph";
    const tab = available.includes(place.tab) ? place.tab : available[0];
    tabs.show(available, tab);
    chooser.element.hidden = model.paths().length < 2;
    chooser.show(model, place.path);
    const view = viewOf(tab);
    if (shown !== tab) {
      shown = tab;
      fill(stage, view.element);
      stage.dataset.shown = tab;
    }
    view.update();
    showSelection(view, tab);
    showPane();
  }

  /** Only when it changes: a view goes to what is selected, and that must not move it while it is being looked at. */
  function showSelection(view, tab) {
    const selected = tab === "calls" || tab === "timeline" ? place.call : place.thought;
    const isThere = tab !== "graph" || selected === null || model.search(place.path)?.thoughts[selected] !== undefined;
    if (view.selected !== selected && isThere) {
      view.selected = selected;
      view.select?.(selected);
    }
  }

  function showPane() {
    const key =
      place.thought !== null
        ? `thought ${place.path} ${place.thought}`
        : place.call !== null
          ? `call ${place.call}`
          : "";
    if (key !== paneKey || paneContent === null) {
      paneKey = key;
      paneContent = newPane();
      const close = el(
        "button",
        { class: "close", "aria-label": "Close", title: "Close (Escape)", click: () => select(null) },
        "×",
      );
      fill(pane, key && close, paneContent.element);
      pane.scrollTop = 0;
      body.classList.toggle("has-selection", key !== "");
    }
    body.classList.toggle("is-alone", key === "" && NOTHING_TO_SELECT.has(shown));
    keepingPlace(pane, paneContent.update);
  }

  function newPane() {
    if (place.thought !== null) {
      return createThoughtPane({
        model,
        path: place.path,
        id: place.thought,
        loadCall,
        onSelect: select,
        onSelectCall: selectCall,
        onPlay: play,
      });
    }
    if (place.call !== null) {
      const onSelect = (path, thought) => settle({ path, thought, call: null });
      return createCallPane({ model, id: place.call, loadCall, onSelect });
    }
    const hint = el("p", { class: "quiet hint" }, "Select a thought or a call to read about it.");
    return { element: hint, update() {} };
  }

  function onKey(event) {
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.target.matches?.(FIELDS)) {
      return;
    }
    const thought = model.search(place.path)?.thoughts[place.thought ?? -1];
    if (event.key === "Escape" && (place.thought !== null || place.call !== null)) {
      select(null);
    } else if (thought !== undefined && event.key.startsWith("Arrow") && !event.target.matches?.(ARROWS_OF_THEIR_OWN)) {
      const next = neighbours(model.search(place.path), thought)[event.key] ?? null;
      if (next === null) {
        return;
      }
      const isOnStep = event.target.matches?.("[data-step]");
      select(next);
      if (isOnStep) {
        (pane.querySelector(`[data-step="${event.key}"]:enabled`) ?? pane).focus();
      }
    } else {
      return;
    }
    event.preventDefault();
  }

  const onState = (state) => {
    connection.show(state);
    nowhere.hidden = source.isFile || state.sentence === "";
    element.dataset.connection = state.kind;
  };
  const refresh = () => {
    element.classList.toggle("is-empty", model.run === null);
    header.update();
    show();
    if (model.run !== null) {
      document.title = `${shorten(model.run.program, 40)} · ${shorten(model.run.id, 30)} · llmprog`;
    }
  };
  model.onChange(refresh);
  document.addEventListener("keydown", onKey);
  const stop = source.follow(id, (batch) => model.apply(batch), onState);

  return {
    element,
    goTo(given) {
      const next = placeOf(given);
      isPathChosen ||= next.path !== null && next.path !== place.path;
      Object.assign(place, next, { path: next.path ?? place.path });
      show();
    },
    destroy() {
      stop();
      document.removeEventListener("keydown", onKey);
      for (const view of views.values()) {
        view.destroy?.();
      }
    },
  };
}

/** What is typed into, and what has a use of its own for the arrow keys: tabs, and what scrolls. */
const FIELDS = "input, select, textarea";
const ARROWS_OF_THEIR_OWN = "[role=tab], [role=table], .pane";

/** Tabs in which nothing is selected: where nothing is, they have the room of the pane. */
const NOTHING_TO_SELECT = new Set(["rows", "votes", "playback"]);

function placeOf(params) {
  const number = (name) => (/^\d{1,12}$/.test(params.get(name) ?? "") ? Number(params.get(name)) : null);
  return { tab: params.get("tab"), path: params.get("path"), thought: number("thought"), call: number("call") };
}

/** Change a scrolled pane so that the section that is read first stays where it is, whatever grows above it. */
function keepingPlace(pane, change) {
  const { top } = pane.getBoundingClientRect();
  const isRead = (section) => !section.hidden && section.getBoundingClientRect().top >= top;
  const section = pane.scrollTop > 0 ? [...pane.querySelectorAll(".section")].find(isRead) : undefined;
  const before = section?.getBoundingClientRect().top;
  change();
  if (section !== undefined && !section.hidden) {
    pane.scrollTop += section.getBoundingClientRect().top - before;
  }
}

/** The tabs that have something to show. */
function availableTabs(model, path) {
  const found = model.run.kind === "map" || model.rows.size > 0 ? ["rows"] : [];
  found.push("graph", "thoughts");
  if (votesOf(model, path).length > 0) {
    found.push("votes");
  }
  found.push("timeline");
  if (model.canvases(path).length > 0) {
    found.push("playback");
  }
  found.push("calls");
  return found;
}
