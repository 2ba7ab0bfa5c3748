// Walking through a graph thought by thought, for keys and for readers who hear it.

import { formatPlural, formatScore, shorten, visible } from "./text.js";

/**
 * The thought that an arrow key goes to.
 * @param {object} scene a `GraphScene`
 * @param {number|null} id where the walk is; `null` begins at the first root
 * @param {string} key ArrowUp (parent), ArrowDown (first child), ArrowLeft or ArrowRight (siblings)
 * @returns {number|null} null where there is none
 */
export function graphNeighbour(scene, id, key) {
  if (id === null || !scene.has(id)) {
    return scene.roots[0] ?? null;
  }
  if (key === "ArrowUp") {
    const parent = scene.search.thoughts[id].parents[0];
    return parent !== undefined && scene.has(parent) ? parent : null;
  }
  if (key === "ArrowDown") {
    return scene.childrenOf(id)[0] ?? null;
  }
  const siblings = siblingsOf(scene, id);
  return siblings[siblings.indexOf(id) + (key === "ArrowLeft" ? -1 : 1)] ?? null;
}

/**
 * A thought in words: its state, what became of it, and what is around it.
 * @param {object|null} scene a `GraphScene`
 * @param {number} id
 * @returns {string}
 */
export function describeThought(scene, id) {
  const thought = scene?.search.thoughts[id];
  if (thought === undefined) {
    return "";
  }
  const parts = [`Thought ${id}: ${shorten(visible(thought.state), 120)}`, thought.status];
  if (thought.verdicts.length > 0) {
    parts.push(`score ${formatScore(thought.score)}`);
  }
  if (scene.search.solution.has(id)) {
    parts.push("on the solution's path");
  }
  if (scene.has(id)) {
    const siblings = siblingsOf(scene, id);
    parts.push(`${siblings.indexOf(id) + 1} of ${siblings.length} at its place`);
  }
  parts.push(formatPlural(thought.children.length, "child", "children"));
  const ways = thought.parents.length - 1 + thought.arrivals.length;
  if (ways > 0) {
    parts.push(`reached in ${formatPlural(ways, "other way")}`);
  }
  return parts.join("; ");
}

/** The shown children of the same first parent, or the roots. */
function siblingsOf(scene, id) {
  const parent = scene.search.thoughts[id].parents[0];
  return parent === undefined || !scene.has(parent) ? scene.roots : scene.childrenOf(parent);
}
