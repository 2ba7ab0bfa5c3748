// The row of controls above the graph, and the legend of its colours.

import { GRAPH_COLORINGS } from "./graph_look.js";
import { el, fill, formatCount, formatPlural } from "./text.js";

const SEARCH_DELAY_MS = 120;

/**
 * The controls of a graph.
 * @param {{zoom: (factor: number) => void, fit: () => void, coloring: (name: string) => void,
 *   solutionOnly: (isOn: boolean) => void, hideInvalid: (isOn: boolean) => void, unfold: () => void,
 *   search: (text: string) => void, nextMatch: (step: number) => void}} on what each control does
 * @returns {{element: HTMLElement, legend: HTMLElement, focusSearch: () => void, clearSearch: () => void,
 *   showFilters: (filter: object, hasSolution: boolean) => void, showMatches: (place: number, count: number) => void,
 *   showCounts: (shown: number, all: number) => void,
 *   showLegend: (legend: {name: string, label: string, kind?: string}[]) => void}}
 */
export function createGraphTools(on) {
  let timer = 0;
  let wanted = "";
  const searchNow = () => {
    clearTimeout(timer);
    if (search.value !== wanted) {
      wanted = search.value;
      on.search(wanted);
    }
  };
  const search = el("input", {
    type: "search",
    placeholder: "Search thoughts",
    "aria-label": "Search thoughts by state or answer; Enter goes to the next",
    title: "Search states and answers; Enter goes to the next",
    "data-testid": "graph-search",
    input: () => {
      clearTimeout(timer);
      timer = setTimeout(searchNow, SEARCH_DELAY_MS);
    },
    keydown: (event) => {
      if (event.key === "Enter") {
        event.preventDefault();
        searchNow();
        on.nextMatch(event.shiftKey ? -1 : 1);
      }
    },
  });
  const matches = el("span", { class: "quiet graph-matches", role: "status", "data-testid": "graph-matches" });
  const counts = el("span", { class: "quiet graph-counts", "data-testid": "graph-counts" });
  const coloring = el(
    "select",
    {
      "aria-label": "Colour by",
      "data-testid": "graph-coloring",
      change: (event) => on.coloring(event.target.value),
    },
    GRAPH_COLORINGS.map(([name, label]) => el("option", { value: name }, `Colour: ${label.toLowerCase()}`)),
  );
  const box = (label, title, testid, change) => {
    const input = el("input", { type: "checkbox", "data-testid": testid, change: () => change(input.checked) });
    return { input, element: el("label", { class: "graph-check", title }, input, label) };
  };
  const solutionOnly = box(
    "Near the solution",
    "Only what is on the marked way, what it was made from, and what was made from it",
    "graph-solution-only",
    on.solutionOnly,
  );
  const hideInvalid = box("Hide invalid", "Leave out what a checker refused", "graph-hide-invalid", on.hideInvalid);
  const unfold = el("button", { type: "button", click: on.unfold, "data-testid": "graph-unfold" }, "Unfold all");
  const button = (label, name, testid, click) =>
    el("button", { type: "button", "aria-label": name, title: name, "data-testid": testid, click }, label);
  const element = el(
    "div",
    { class: "graph-tools", role: "toolbar", "aria-label": "Graph" },
    el(
      "div",
      { class: "graph-zoom" },
      button("−", "Zoom out", "graph-zoom-out", () => on.zoom(1 / 1.4)),
      button("+", "Zoom in", "graph-zoom-in", () => on.zoom(1.4)),
      button("Fit", "Show the whole graph", "graph-fit", on.fit),
    ),
    search,
    matches,
    coloring,
    solutionOnly.element,
    hideInvalid.element,
    unfold,
  );
  const legend = el("ul", { class: "graph-legend", "data-testid": "graph-legend", "aria-label": "Colours and lines" });
  return {
    element,
    foot: el("div", { class: "graph-foot" }, legend, counts),
    focusSearch: () => search.focus(),
    clearSearch: () => {
      search.value = "";
      wanted = "";
    },
    showFilters: (filter, hasSolution) => {
      solutionOnly.input.checked = filter.isSolutionOnly;
      solutionOnly.input.disabled = !hasSolution;
      hideInvalid.input.checked = filter.hidesInvalid;
      unfold.hidden = filter.folded.size === 0;
    },
    showMatches: (place, count) => {
      const isSearching = search.value.trim() !== "";
      fill(matches, isSearching && (count > 0 ? `${formatCount(place)} of ${formatCount(count)}` : "no match"));
    },
    showCounts: (shown, all) => {
      const some = shown < all ? `${formatCount(shown)} of ` : "";
      fill(counts, `${some}${formatPlural(all, "thought")}`);
    },
    showLegend: (entries) => {
      fill(
        legend,
        entries.map(({ name, label, kind }) => {
          const patch = el("span", { class: `graph-patch ${kind ?? ""}` });
          patch.style.setProperty("--patch", `var(--${name})`);
          return el("li", {}, patch, label);
        }),
      );
    },
  };
}
