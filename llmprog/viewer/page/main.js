// Which page is shown: by what follows # in the address.

import { createComparePage } from "./compare_page.js";
import { createRunPage } from "./run_page.js";
import { createRunsList } from "./runs_list.js";
import { pageSource } from "./source.js";
import { el, fill } from "./text.js";

const PLACE_MS = 150;

/** Show the page that the address names, and follow it from place to place. */
function startPage() {
  const source = pageSource();
  const main = document.getElementById("page");
  const top = document.getElementById("top");
  let page = null;
  let key = null;
  let timer = 0;
  let unwritten = null;
  // The hash that the page was last led to, or wrote. Events come late: that of a hash that was written here when the
  // page may be elsewhere already, and that of another's when this one could be written over it.
  let known = null;

  const write = (path, params, isStep) => {
    if (location.hash !== known) {
      return;
    }
    const given = Object.entries(params).filter(([, value]) => value !== null && value !== "");
    const query = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
    const hash = `#${path}${query && `?${query}`}`;
    if (hash !== location.hash) {
      if (isStep) {
        location.assign(hash);
      } else {
        location.replace(hash);
      }
      known = location.hash;
    }
  };

  const flush = () => {
    clearTimeout(timer);
    unwritten?.();
    unwritten = null;
  };

  /**
   * Write where we are into the address: a step, which the browser's Back undoes, at once; else after a moment, since
   * browsers refuse many changes in a short time.
   */
  const onPlace =
    (path) =>
    (params, isStep = false) => {
      const now = { ...params };
      if (isStep) {
        flush();
        write(path, now, true);
      } else {
        clearTimeout(timer);
        unwritten = () => write(path, now, false);
        timer = setTimeout(flush, PLACE_MS);
      }
    };

  const show = () => {
    if (location.hash === known) {
      return;
    }
    known = location.hash;
    unwritten = null;
    const { path, params } = addressOf(location.hash);
    if (key === path) {
      page.goTo(params);
      return;
    }
    page?.destroy();
    key = path;
    page = newPage(source, path, params, onPlace(path));
    fill(main, page.element);
    const brand = source.isFile
      ? el("span", { class: "brand" }, "llmprog")
      : el("a", { class: "brand", href: "#/" }, "llmprog");
    fill(top, brand, el("span", { class: "where quiet" }, whereText(path, source)));
  };
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  window.addEventListener("hashchange", show);
  show();
}

/** A hash in parts: `#/run/ID?tab=graph` has the path `/run/ID`. */
function addressOf(hash) {
  const [path, query = ""] = hash.replace(/^#/, "").split("?", 2);
  return { path: path || "/", params: new URLSearchParams(query) };
}

function newPage(source, path, params, onPlace) {
  const [, kind, ...ids] = path.split("/").map(decoded);
  if (source.isFile) {
    return createRunPage({ source, id: "", params, onPlace });
  }
  if (kind === "run" && ids.length === 1) {
    return createRunPage({ source, id: ids[0], params, onPlace });
  }
  if (kind === "compare" && ids.length === 2) {
    return createComparePage({ source, ids, params, onPlace });
  }
  if (kind === "") {
    return createRunsList({ source, params, onPlace }).start();
  }
  const nowhere = el("div", { class: "notice" }, "There is no such page. ", el("a", { href: "#/" }, "All runs"));
  return { element: nowhere, goTo() {}, destroy() {} };
}

function whereText(path, source) {
  if (source.isFile) {
    return "a run, exported";
  }
  return { run: "a run", compare: "two runs side by side" }[path.split("/")[1]] ?? "runs";
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

startPage();
