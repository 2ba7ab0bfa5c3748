// Which searches of two runs are compared: the same of both, or of each its own.

import { createPathChooser } from "./path_chooser.js";
import { el, fill, formatCount, formatPlural } from "./text.js";

/** The paths of the searches that both runs have. */
export function commonPaths([one, other]) {
  return one.paths().filter((path) => other.search(path) !== undefined);
}

/**
 * The choice among the searches of two runs; hidden where there is none.
 * @param {object} options
 * @param {function(number, string)} options.onChoose called with the side, 0 or 1, and a path
 * @param {function(boolean)} options.onJoin called with whether both are to show the same
 * @returns {{element: HTMLElement, show: function(RunModel[], string[], boolean)}} `show` takes the two runs, the paths that are
 *   shown, and whether these go together
 */
export function createSearchChoice({ onChoose, onJoin }) {
  const choosers = ["Left", "Right"].map((label, index) =>
    createPathChooser({
      label: `${label} search`,
      testid: `compare-${label.toLowerCase()}`,
      onChoose: (path) => onChoose(index, path),
    }),
  );
  const join = el("input", { type: "checkbox", "data-testid": "compare-join", change: () => onJoin(join.checked) });
  const counts = el("span", { class: "quiet", "data-testid": "compare-counts" });
  const element = el(
    "section",
    { class: "compare-searches", "aria-label": "Searches that are compared", hidden: true },
    el("p", {}, el("label", {}, join, "The same search on both sides"), counts),
    el(
      "div",
      { class: "compare-sides" },
      choosers.map((chooser) => chooser.element),
    ),
  );
  return {
    element,
    show(models, paths, isJoined) {
      const common = new Set(commonPaths(models));
      element.hidden = models.every((model) => model.paths().length < 2);
      join.checked = isJoined && common.size > 0;
      join.disabled = common.size === 0;
      fill(counts, countsText(models, common.size));
      choosers.forEach((chooser, index) => {
        const side = index === 0 ? "left" : "right";
        chooser.show(models[index], paths[index], (path) => (common.has(path) ? "" : ` (only ${side})`));
      });
    },
  };
}

function countsText(models, numCommon) {
  const [left, right] = models.map((model) => formatCount(model.paths().length - numCommon));
  return `${formatPlural(numCommon, "search", "searches")} in both runs, ${left} only left, ${right} only right.`;
}
