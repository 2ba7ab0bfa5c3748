// The choice among the searches of a run.

import { el, fill, shorten } from "./text.js";

/**
 * A field that lists the searches of a run.
 * @param {object} options
 * @param {string} options.label what is before the field
 * @param {string} options.testid
 * @param {function(string)} options.onChoose called with a path
 * @returns {{element: HTMLElement, show: function(RunModel, string|null, function(string): string)}} `show` takes the path that is
 *   chosen, and what is said beside a path, such as that only this run has it
 */
export function createPathChooser({ label, testid, onChoose }) {
  const select = el("select", { "data-testid": testid, change: () => onChoose(select.value) });
  const element = el("label", { class: "path-chooser" }, el("span", { class: "quiet" }, label), select);
  let known = "";
  return {
    element,
    show(model, path, noteOf = () => "") {
      const options = model.paths().map((one) => [one, `${shorten(nameOf(model, one), 60)}${noteOf(one)}`]);
      const sign = JSON.stringify(options);
      if (sign !== known) {
        known = sign;
        fill(
          select,
          options.map(([one, name]) => el("option", { value: one }, name)),
        );
      }
      select.value = path ?? "";
    },
  };
}

function nameOf(model, path) {
  if (path === "") {
    return "the whole";
  }
  return model.run.kind === "map" && !path.includes("/") ? `row ${path}` : path;
}
