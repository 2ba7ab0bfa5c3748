// A small picture of the whole graph, with a frame around the part that is seen.

import { GRAPH_BOX } from "./graph_layout.js";
import { el } from "./text.js";

const SIZE = { width: 168, height: 112 };

/** The overview in the corner: shown while a part of the graph is out of sight; a click or drag goes to a place. */
export class GraphMinimap {
  #picture = document.createElement("canvas");
  #ratio = 1;
  #scale = 1;
  #scene = null;

  /** @param {(x: number, y: number) => void} onGoTo takes a place of the picture */
  constructor(onGoTo) {
    this.element = el("canvas", { class: "graph-minimap", "data-testid": "graph-minimap", "aria-hidden": "true" });
    const go = (event) => {
      if (event.buttons & 1) {
        const { left, top } = this.element.getBoundingClientRect();
        onGoTo((event.clientX - left) / this.#scale, (event.clientY - top) / this.#scale);
      }
    };
    this.element.addEventListener("pointerdown", (event) => {
      this.element.setPointerCapture(event.pointerId);
      go(event);
    });
    this.element.addEventListener("pointermove", go);
  }

  /** Draw the whole scene anew, once for many frames. */
  take(scene, looks, theme) {
    this.#scene = scene;
    this.#ratio = window.devicePixelRatio || 1;
    this.#scale = Math.min(SIZE.width / Math.max(scene.width, 1), SIZE.height / Math.max(scene.height, 1));
    const [width, height] = [Math.ceil(scene.width * this.#scale), Math.ceil(scene.height * this.#scale)];
    for (const canvas of [this.#picture, this.element]) {
      canvas.width = Math.max(1, width * this.#ratio);
      canvas.height = Math.max(1, height * this.#ratio);
    }
    this.element.style.width = `${width}px`;
    this.element.style.height = `${height}px`;
    const context = this.#picture.getContext("2d");
    const unit = this.#scale * this.#ratio;
    const box = [Math.max(1, GRAPH_BOX.width * unit), Math.max(1, GRAPH_BOX.height * unit)];
    context.fillStyle = theme.surface;
    context.fillRect(0, 0, this.#picture.width, this.#picture.height);
    looks.legend.forEach((entry, code) => {
      context.fillStyle = theme.color(entry.name);
      for (const id of scene.order) {
        if (looks.codes[id] === code) {
          context.fillRect(scene.x[id] * unit - box[0] / 2, scene.y[id] * unit, ...box);
        }
      }
    });
    context.fillStyle = theme.solution;
    for (const id of scene.search.solution) {
      if (scene.has(id)) {
        context.fillRect(scene.x[id] * unit - 1, scene.y[id] * unit, Math.max(2, box[0]), Math.max(2, box[1]));
      }
    }
  }

  /** Show the frame of what is seen; hide the map where that is everything. */
  frame(camera, theme) {
    const { left, top, right, bottom } = camera.view();
    const { width, height } = this.#scene;
    this.element.hidden = left <= 0 && top <= 0 && right >= width && bottom >= height;
    if (this.element.hidden) {
      return;
    }
    const context = this.element.getContext("2d");
    const unit = this.#scale * this.#ratio;
    context.drawImage(this.#picture, 0, 0);
    context.strokeStyle = theme.accent;
    context.lineWidth = 1.5 * this.#ratio;
    context.strokeRect(left * unit, top * unit, (right - left) * unit, (bottom - top) * unit);
  }
}
