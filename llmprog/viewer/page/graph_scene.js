// What of a search is shown, and where: thoughts that are neither folded away nor filtered out, and all edges among them.

import { GRAPH_BOX, GRAPH_MOST_FITTED, layoutForest } from "./graph_layout.js";
import { PlaceIndex } from "./graph_index.js";

const NO_CHILDREN = [];

/**
 * @typedef {object} GraphFilter
 * @property {Set<number>} folded thoughts whose sub-trees are folded away
 * @property {boolean} isSolutionOnly show the solution's path, its children, and what else led to it
 * @property {boolean} hidesInvalid leave out what a checker refused, with what is below it
 */

/** A picture of a search, ready to be drawn: places, lines, links, and what has been left out. */
export class GraphScene {
  #children = [];
  #near;
  #filter;

  /**
   * @param {object} search of a `RunModel`
   * @param {GraphFilter} filter
   * @param {{width: number, height: number}|null} room in which a small picture is to be seen whole
   */
  constructor(search, filter, room = null) {
    this.search = search;
    this.#filter = filter;
    this.#near = filter.isSolutionOnly && search.solution.size > 0 ? neighbourhoodOf(search) : null;
    const roots = [];
    for (const thought of search.thoughts) {
      if (thought !== undefined && thought.depth === 0 && this.#isShown(thought)) {
        roots.push(thought.id);
      }
    }
    this.roots = roots;
    const places = layoutForest(roots, (id) => this.childrenOf(id), search.thoughts.length, room);
    this.places = places;
    this.order = places.order;
    this.isFitted = this.order.length <= GRAPH_MOST_FITTED;
    this.x = places.x;
    this.y = places.y;
    this.width = places.width;
    this.height = places.height;
    this.index = new PlaceIndex(this.order, this.x, this.y, GRAPH_BOX, this);
    this.links = linksOf(this);
    this.foldedSizes = foldedSizesOf(search, filter.folded);
  }

  /** Whether a thought has a place in the picture. */
  has(id) {
    return !Number.isNaN(this.x[id] ?? NaN);
  }

  /** The children of a thought that are shown: none of one that is folded. */
  childrenOf(id) {
    const known = this.#children[id];
    if (known !== undefined) {
      return known;
    }
    const { thoughts } = this.search;
    const all = thoughts[id].children;
    const isWhole = this.#near === null && !this.#filter.hidesInvalid;
    const shown = isWhole ? all : all.filter((child) => this.#isShown(thoughts[child]));
    this.#children[id] = this.#filter.folded.has(id) ? NO_CHILDREN : shown;
    return this.#children[id];
  }

  /** The thought itself if it is shown, else the nearest above it that is, or null. */
  standIn(id) {
    for (let at = id; at !== undefined; at = this.search.thoughts[at]?.parents[0]) {
      if (this.has(at)) {
        return at;
      }
    }
    return null;
  }

  #isShown(thought) {
    if (this.#near !== null && !this.#near.has(thought.id)) {
      return false;
    }
    return !this.#filter.hidesInvalid || thought.status !== "invalid";
  }
}

/** The thoughts of the solution's path, their children, and all that they came from by any parent. */
function neighbourhoodOf(search) {
  const near = new Set();
  for (const id of search.solution) {
    near.add(id);
    const thought = search.thoughts[id];
    for (const child of thought?.children ?? []) {
      near.add(child);
    }
    for (const parent of thought === undefined ? [] : otherParentsOf(thought).map(([from]) => from)) {
      for (let at = parent; at !== undefined && !near.has(at); at = search.thoughts[at]?.parents[0]) {
        near.add(at);
      }
    }
  }
  return near;
}

/** The parents of a thought but the first, and those of its arrivals: `[id, isArrival]` each. */
function otherParentsOf(thought) {
  const first = thought.parents[0];
  const seen = new Set([first]);
  const found = [];
  const add = (parents, isArrival) => {
    for (const parent of parents) {
      if (!seen.has(parent)) {
        seen.add(parent);
        found.push([parent, isArrival]);
      }
    }
  };
  add(thought.parents, false);
  for (const arrival of thought.arrivals) {
    add(arrival.parents, true);
  }
  return found;
}

/** The edges that are none of the tree: between what stands for their ends, each once. */
function linksOf(scene) {
  const links = [];
  const seen = new Set();
  const { thoughts } = scene.search;
  for (const thought of thoughts) {
    if (thought === undefined || (thought.parents.length < 2 && thought.arrivals.length === 0)) {
      continue;
    }
    const to = scene.standIn(thought.id);
    for (const [parent, isArrival] of to === null ? [] : otherParentsOf(thought)) {
      const from = scene.standIn(parent);
      const key = from * thoughts.length + to;
      if (from !== null && from !== to && thoughts[to].parents[0] !== from && !seen.has(key)) {
        seen.add(key);
        links.push({ from, to, isArrival });
      }
    }
  }
  return links;
}

/** How many thoughts each folded one hides. */
function foldedSizesOf(search, folded) {
  const sizes = new Map();
  for (const root of folded) {
    const below = [root];
    for (let next = 0; next < below.length; next += 1) {
      for (const child of search.thoughts[below[next]]?.children ?? []) {
        below.push(child);
      }
    }
    sizes.set(root, below.length - 1);
  }
  return sizes;
}
