// The graph of a search as a picture one can walk through: what is shown, selected and searched, and when it is drawn.

import { GRAPH_BOX } from "./graph_layout.js";
import { GraphCamera } from "./graph_camera.js";
import { GraphMinimap } from "./graph_minimap.js";
import { GraphPicture } from "./graph_picture.js";
import { GraphScene } from "./graph_scene.js";
import { createGraphTools } from "./graph_tools.js";
import { describeThought, graphNeighbour } from "./graph_walk.js";
import { listenToGraph } from "./graph_input.js";
import { linesOf, looksOf, readGraphTheme } from "./graph_look.js";
import { el, fill, formatScore, shorten } from "./text.js";

// Placing and drawing new thoughts takes at most one part in this many of the time, however fast they come.
const SHARE_OF_TIME = 5;
const HOVER_SLACK_PX = 3;
const READABLE_SCALE = 0.6;

/**
 * The graph of the search at `path`.
 * @param {{model: object, path: string, onSelect: (id: number|null) => void}} options
 * @returns {{element: HTMLElement, update: () => void, select: (id: number|null) => void, setPath: (path: string) => void,
 *   mark: (ids: Set<number>) => void, destroy: () => void}}
 */
export function createGraphView({ model, path, onSelect }) {
  const view = new GraphView(model, path, onSelect);
  return {
    element: view.element,
    update: () => view.update(),
    select: (id) => view.select(id),
    setPath: (other) => view.setPath(other),
    mark: (ids) => view.mark(ids),
    destroy: () => view.destroy(),
  };
}

class GraphView {
  #model;
  #path;
  #onSelect;
  #camera = new GraphCamera();
  #scene = null;
  #looks = null;
  #theme = null;
  #revision = -1;
  #focus = { selected: null, hovered: null };
  #filter = { folded: new Set(), isSolutionOnly: false, hidesInvalid: false };
  #coloring = "status";
  #query = "";
  #matches = [];
  #marked = new Set();
  #isFollowing = true;
  // What the places of a small graph are made for; it stays while a part of the graph is being looked at.
  #room = null;
  #frame = 0;
  #timer = 0;
  #notBefore = 0;
  #isFresh = false;
  #canvas = el("canvas", { class: "graph-canvas", tabindex: "0", role: "application", "data-testid": "graph-canvas" });
  #said = el("p", { class: "graph-said", role: "status", "aria-live": "polite", "data-testid": "graph-said" });
  #tip = el("div", { class: "graph-tip", "data-testid": "graph-tip" });
  #stage;
  #tools;
  #minimap;
  #picture;
  #observer;
  #scheme = matchMedia("(prefers-color-scheme: dark)");

  constructor(model, path, onSelect) {
    [this.#model, this.#path, this.#onSelect] = [model, path, onSelect];
    this.#tools = createGraphTools({
      zoom: (factor) => this.#zoom(factor, this.#camera.width / 2, this.#camera.height / 2),
      fit: () => this.#fit(),
      coloring: (name) => this.#change(() => (this.#coloring = name)),
      solutionOnly: (isOn) => this.#change(() => (this.#filter.isSolutionOnly = isOn), true),
      hideInvalid: (isOn) => this.#change(() => (this.#filter.hidesInvalid = isOn), true),
      unfold: () => this.#change(() => this.#filter.folded.clear(), true),
      search: (text) => this.#search(text),
      nextMatch: (step) => this.#goToMatch(step),
    });
    this.#minimap = new GraphMinimap((x, y) => {
      this.#isFollowing = false;
      this.#camera.center(x, y);
      this.#draw();
    });
    this.#canvas.setAttribute(
      "aria-label",
      "Thought graph. Arrow keys go to the parent, a child or a sibling; Space folds; plus, minus and 0 zoom; slash searches.",
    );
    this.#tip.hidden = true;
    this.#stage = el("div", { class: "graph-stage" }, this.#canvas, this.#minimap.element, this.#tip);
    this.element = el("section", { class: "graph", "aria-label": "Thought graph" });
    this.element.append(this.#tools.element, this.#stage, this.#tools.foot, this.#said);
    this.#picture = new GraphPicture(this.#canvas, () => this.#draw());
    listenToGraph(this.#canvas, {
      pan: (dx, dy) => this.#pan(dx, dy),
      zoom: (factor, x, y) => this.#zoom(factor, x, y),
      click: (x, y) => this.#choose(this.#at(x, y)),
      doubleClick: (x, y) => this.#fold(this.#at(x, y)),
      hover: (x, y) => this.#hover(x, y),
      key: (key) => this.#press(key),
    });
    this.#observer = new ResizeObserver(() => this.#resize());
    this.#observer.observe(this.#stage);
    this.#scheme.addEventListener("change", this.#onScheme);
    this.update();
  }

  /** Take in what is new in the model; cheap where nothing is. */
  update() {
    const search = this.#model.search(this.#path);
    const isSame = search === this.#scene?.search && search?.revision === this.#revision;
    if (search === undefined || isSame || this.#timer !== 0) {
      return;
    }
    const wait = this.#notBefore - performance.now();
    if (wait > 0) {
      this.#timer = setTimeout(() => {
        this.#timer = 0;
        this.update();
      }, wait);
      return;
    }
    this.#build();
  }

  /** Select a thought as the page asks for it, and bring it into view; `null` selects none. */
  select(id) {
    if (id !== null && this.#model.search(this.#path)?.thoughts[id] === undefined) {
      return;
    }
    this.#focus.selected = id;
    if (id !== null) {
      this.#reveal(id);
    }
    this.#say();
    this.#draw();
  }

  /** Show another search of the same run. */
  setPath(path) {
    if (path === this.#path) {
      return;
    }
    this.#path = path;
    this.#filter = { folded: new Set(), isSolutionOnly: false, hidesInvalid: false };
    this.#focus = { selected: null, hovered: null };
    this.#query = "";
    this.#tools.clearSearch();
    this.#isFollowing = true;
    this.#notBefore = 0;
    this.#scene = null;
    this.update();
  }

  destroy() {
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#timer);
    this.#picture.destroy();
    this.#observer.disconnect();
    this.#scheme.removeEventListener("change", this.#onScheme);
  }

  /** Outline some thoughts, as those are that match what is searched for. */
  mark(ids) {
    this.#marked = ids;
    if (this.#scene !== null) {
      this.#looks = this.#looksOf(this.#scene.search);
      this.#draw();
    }
  }

  #looksOf(search) {
    return looksOf(search, this.#coloring, new Set([...this.#matches, ...this.#marked]));
  }

  #onScheme = () => {
    this.#theme = null;
    this.#draw();
  };

  /** Change what is shown or how; what was in view stays there, unless the whole graph is being shown. */
  #change(how, isFilter = false) {
    how();
    if (isFilter && this.#filter.folded.size === 0) {
      this.#isFollowing = true;
    }
    this.#build();
  }

  #build() {
    const search = this.#model.search(this.#path);
    if (search === undefined) {
      return;
    }
    const begun = performance.now();
    const anchor = this.#isFollowing ? null : this.#anchor();
    if (this.#isFollowing || this.#room === null) {
      this.#room = this.#camera.room();
    }
    this.#scene = new GraphScene(search, this.#filter, this.#room);
    this.#revision = search.revision;
    this.#matches = this.#found(search);
    this.#looks = this.#looksOf(search);
    this.#theme = null;
    if (anchor !== null && this.#scene.has(anchor.id)) {
      const [x, y] = this.#camera.toCanvas(this.#scene.x[anchor.id], this.#scene.y[anchor.id]);
      this.#camera.panBy(anchor.x - x, anchor.y - y);
    } else if (this.#isFollowing) {
      this.#camera.fit(this.#scene);
    }
    this.#tools.showCounts(this.#scene.order.length, search.thoughts.length);
    this.#tools.showFilters(this.#filter, search.solution.size > 0);
    this.#tools.showLegend([...this.#looks.legend, ...linesOf(this.#scene)]);
    this.#showMatches();
    this.#say();
    this.#spent(performance.now() - begun);
    this.#isFresh = true;
    this.#draw();
  }

  /** Let what took `spentMs` be followed by a time without more of it. */
  #spent(spentMs) {
    const now = performance.now();
    this.#notBefore = Math.max(this.#notBefore, now) + spentMs * (SHARE_OF_TIME - 1);
  }

  /** A thought that stays where it is while others come: the selected one if it is seen, else that in the middle. */
  #anchor() {
    const scene = this.#scene;
    if (scene === null || scene.order.length === 0) {
      return null;
    }
    const { selected } = this.#focus;
    const { left, top, right, bottom } = this.#camera.view();
    const [x, y] = [scene.x[selected ?? -1], scene.y[selected ?? -1]];
    const isSeen = x >= left && x <= right && y >= top && y <= bottom;
    const id = isSeen ? selected : scene.index.nearest((left + right) / 2, (top + bottom) / 2);
    const [atX, atY] = this.#camera.toCanvas(scene.x[id], scene.y[id]);
    return { id, x: atX, y: atY };
  }

  #draw() {
    if (this.#frame === 0) {
      this.#frame = requestAnimationFrame(() => {
        this.#frame = 0;
        this.#drawNow();
      });
    }
  }

  #drawNow() {
    if (this.#scene === null || !this.#canvas.isConnected || this.#camera.width <= 1) {
      return;
    }
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(this.#camera.width * ratio), Math.round(this.#camera.height * ratio)];
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      [this.#canvas.width, this.#canvas.height] = [width, height];
    }
    if (this.#theme === null) {
      this.#theme = readGraphTheme(this.#canvas);
      this.#minimap.take(this.#scene, this.#looks, this.#theme);
    }
    const begun = performance.now();
    const what = { scene: this.#scene, looks: this.#looks, theme: this.#theme };
    this.#picture.show(what, this.#camera, this.#focus);
    this.#minimap.frame(this.#camera, this.#theme);
    this.#canvas.dataset.drawn = String(this.#scene.order.length);
    if (this.#isFresh) {
      this.#isFresh = false;
      this.#spent(performance.now() - begun);
    }
  }

  #resize() {
    const { clientWidth, clientHeight } = this.#stage;
    if (clientWidth > 0 && clientHeight > 0) {
      this.#camera.resize(clientWidth, clientHeight);
      if (this.#isFollowing) {
        this.#fit();
      }
      // At once: a canvas that waits for the next frame would be seen stretched.
      this.#drawNow();
    }
  }

  #pan(dx, dy) {
    this.#isFollowing = false;
    this.#camera.panBy(dx, dy);
    this.#draw();
  }

  #zoom(factor, x, y) {
    this.#isFollowing = false;
    this.#camera.zoomBy(factor, x, y);
    this.#hover(null, null);
    this.#draw();
  }

  #fit() {
    this.#isFollowing = true;
    if (this.#scene?.isFitted === true) {
      this.#build();
    } else if (this.#scene !== null) {
      this.#camera.fit(this.#scene);
      this.#draw();
    }
  }

  #at(x, y) {
    return this.#scene?.index.at(...this.#camera.toPicture(x, y), HOVER_SLACK_PX / this.#camera.scale) ?? null;
  }

  #hover(x, y) {
    const id = x === null ? null : this.#at(x, y);
    if (id !== null) {
      this.#showTip(id, x, y);
    }
    this.#tip.hidden = id === null;
    this.#canvas.classList.toggle("is-over", id !== null);
    if (id !== this.#focus.hovered) {
      this.#focus.hovered = id;
      this.#draw();
    }
  }

  #showTip(id, x, y) {
    const thought = this.#scene.search.thoughts[id];
    if (id !== this.#focus.hovered) {
      const score = thought.verdicts.length > 0 && `score ${formatScore(thought.score)}`;
      const facts = [`#${id}`, thought.status, score].filter(Boolean).join(" · ");
      fill(this.#tip, el("div", { class: "graph-tip-state" }, shorten(thought.state, 240)), el("div", {}, facts));
    }
    this.#tip.style.left = `${Math.min(x + 14, Math.max(0, this.#camera.width - 300))}px`;
    this.#tip.style.top = `${y > this.#camera.height * 0.7 ? y - 76 : y + 16}px`;
  }

  #choose(id) {
    this.#focus.selected = id;
    this.#say();
    this.#draw();
    this.#onSelect(id);
  }

  /** Fold a sub-tree away, or show it again. */
  #fold(id) {
    const { folded } = this.#filter;
    if (id === null || this.#scene === null || !this.#scene.has(id)) {
      return;
    }
    if (!folded.delete(id)) {
      if (this.#scene.childrenOf(id).length === 0) {
        return;
      }
      folded.add(id);
    }
    this.#isFollowing = false;
    this.#focus.selected = id;
    this.#build();
  }

  #press(key) {
    const { selected } = this.#focus;
    const middle = [this.#camera.width / 2, this.#camera.height / 2];
    const actions = {
      "+": () => this.#zoom(1.4, ...middle),
      "=": () => this.#zoom(1.4, ...middle),
      "-": () => this.#zoom(1 / 1.4, ...middle),
      0: () => this.#fit(),
      "/": () => this.#tools.focusSearch(),
      " ": () => this.#fold(selected),
      Escape: () => this.#choose(null),
    };
    if (key in actions) {
      actions[key]();
      return true;
    }
    if (!key.startsWith("Arrow") || this.#scene === null) {
      return false;
    }
    const next = graphNeighbour(this.#scene, selected, key);
    if (next !== null) {
      this.#reveal(next);
      this.#choose(next);
    }
    return true;
  }

  /** Unfold and unfilter until a thought has a place, and bring that into view. */
  #reveal(id) {
    this.update();
    if (this.#scene === null) {
      return;
    }
    if (!this.#scene.has(id)) {
      const { thoughts } = this.#scene.search;
      for (let at = thoughts[id]?.parents[0]; at !== undefined; at = thoughts[at]?.parents[0]) {
        this.#filter.folded.delete(at);
      }
      this.#isFollowing = false;
      this.#build();
      if (!this.#scene.has(id)) {
        this.#filter = { ...this.#filter, isSolutionOnly: false, hidesInvalid: false };
        this.#build();
      }
    }
    if (this.#scene.has(id) && this.#camera.width > 1) {
      const [left, top] = [this.#scene.x[id] - GRAPH_BOX.width / 2, this.#scene.y[id]];
      const [oldX, oldY] = [this.#camera.x, this.#camera.y];
      this.#camera.reveal(left, top, GRAPH_BOX.width, GRAPH_BOX.height);
      this.#isFollowing = this.#isFollowing && oldX === this.#camera.x && oldY === this.#camera.y;
    }
  }

  #search(text) {
    this.#query = text;
    if (this.#scene !== null) {
      this.#build();
    }
  }

  #found(search) {
    const query = this.#query.trim().toLowerCase();
    if (query === "") {
      return [];
    }
    const holds = (text) => typeof text === "string" && text.toLowerCase().includes(query);
    return search.thoughts.filter((thought) => holds(thought.full) || holds(thought.answer)).map((thought) => thought.id);
  }

  #goToMatch(step) {
    if (this.#matches.length === 0) {
      return;
    }
    const at = this.#matches.indexOf(this.#focus.selected);
    const place = at < 0 && step < 0 ? this.#matches.length - 1 : at + step;
    const id = this.#matches[(place + this.#matches.length) % this.#matches.length];
    this.#reveal(id);
    if (this.#camera.scale < READABLE_SCALE) {
      this.#isFollowing = false;
      this.#camera.zoomBy(READABLE_SCALE / this.#camera.scale, ...this.#middleOf(id));
      this.#camera.center(this.#scene.x[id], this.#scene.y[id]);
    }
    this.#choose(id);
    this.#showMatches();
  }

  #middleOf(id) {
    return this.#camera.toCanvas(this.#scene.x[id], this.#scene.y[id]);
  }

  #showMatches() {
    this.#tools.showMatches(this.#matches.indexOf(this.#focus.selected) + 1, this.#matches.length);
  }

  #say() {
    const text = this.#focus.selected === null ? "" : describeThought(this.#scene, this.#focus.selected);
    if (this.#said.textContent !== text) {
      fill(this.#said, text);
    }
  }
}
