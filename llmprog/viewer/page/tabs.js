// The tabs of a run's views.

import { el, fill } from "./text.js";

const TAB_TITLES = {
  rows: "Rows",
  graph: "Graph",
  thoughts: "Thoughts",
  votes: "Votes",
  timeline: "Timeline",
  playback: "Denoising",
  calls: "Calls",
};

/**
 * A row of tabs.
 * @param {function(string)} onShow called with the tab that is chosen
 * @returns {{element: HTMLElement, show: function(string[], string)}} `show` takes the tabs there are and the one shown
 */
export function createTabs(onShow) {
  const element = el("div", { class: "tabs", role: "tablist", "aria-label": "Views" });
  let known = "";

  element.addEventListener("keydown", (event) => {
    const all = [...element.children];
    const at = all.indexOf(event.target);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    const tab = next === undefined ? undefined : all.at(next % all.length);
    if (tab !== undefined) {
      event.preventDefault();
      tab.focus();
      onShow(tab.dataset.tab);
    }
  });

  return {
    element,
    show(tabs, shown) {
      if (known !== tabs.join()) {
        known = tabs.join();
        const focused = document.activeElement?.dataset?.tab;
        fill(
          element,
          tabs.map((tab) =>
            el("button", { class: "tab", role: "tab", "data-tab": tab, click: () => onShow(tab) }, TAB_TITLES[tab]),
          ),
        );
        element.querySelector(`[data-tab="${CSS.escape(focused ?? "")}"]`)?.focus();
      }
      for (const tab of element.children) {
        const isShown = tab.dataset.tab === shown;
        tab.setAttribute("aria-selected", String(isShown));
        tab.tabIndex = isShown ? 0 : -1;
      }
    },
  };
}
