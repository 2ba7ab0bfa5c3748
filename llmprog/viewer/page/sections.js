// A column of sections that change each by itself, so that what is new does not move what is being read.

import { el } from "./text.js";

/**
 * Sections with headings, each drawn again only when what it shows has changed.
 * @param {Array<{title: string, testid: string, signature: function(): string, build: function(): any}>} parts
 *   `build` gives what `el` takes as children; null or an empty list: the section is not there
 * @returns {{element: HTMLElement, update: function()}}
 */
export function createSections(parts) {
  const element = el("div", { class: "sections" });
  const shown = parts.map((part) => {
    const body = el("div", { class: "section-body" });
    const section = el(
      "section",
      { class: "section", "data-testid": part.testid, hidden: true },
      part.title && el("h2", {}, part.title),
      body,
    );
    element.append(section);
    return { ...part, section, body, sign: null };
  });
  return {
    element,
    update() {
      for (const part of shown) {
        const sign = part.signature();
        if (sign === part.sign) {
          continue;
        }
        part.sign = sign;
        const built = [part.build()]
          .flat(Infinity)
          .filter((child) => child !== null && child !== undefined && child !== false);
        part.section.hidden = built.length === 0;
        part.body.replaceChildren(...built.map((child) => (child instanceof Node ? child : el("p", {}, child))));
      }
    },
  };
}

/**
 * A place that shows what a promise gives: until then that it is being fetched, on failure why, with a button.
 * @param {function(): Promise<any>} load
 * @param {function(any): any} build gives what `el` takes as children
 * @returns {HTMLElement}
 */
export function fetched(load, build) {
  const place = el("div", { class: "fetched", "aria-busy": "true" }, el("p", { class: "quiet" }, "Fetching…"));
  const fetchIt = async () => {
    try {
      const value = await load();
      place.replaceChildren(el("div", {}, build(value)));
    } catch (error) {
      const again = el("button", { click: fetchIt }, "Try again");
      place.replaceChildren(el("p", { class: "fault" }, error.message), again);
    }
    place.setAttribute("aria-busy", "false");
  };
  fetchIt();
  return place;
}
