// Keeping the picture fluid: what is costly to draw is drawn once, larger than the window, and moved while a hand moves it.

import { GraphCamera } from "./graph_camera.js";
import { GraphPainter } from "./graph_draw.js";

// A picture of more parts than this is kept; one of fewer is drawn anew in each frame.
const MOST_PARTS_ANEW = 900;
// How much is drawn beyond each edge of the window, in parts of its size.
const MARGIN = 0.3;
// How far a kept picture may be stretched while a zoom is under way, and how soon after it is drawn sharp again.
const STRETCH = 2;
const SETTLE_MS = 120;

/** The canvas of a graph and, where needed, a larger picture behind it. */
export class GraphPicture {
  #canvas;
  #painter;
  #buffer = document.createElement("canvas");
  #bufferPainter = new GraphPainter(this.#buffer);
  #kept = null;
  #timer = 0;
  #redraw;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {() => void} redraw asks for another frame
   */
  constructor(canvas, redraw) {
    this.#canvas = canvas;
    this.#painter = new GraphPainter(canvas);
    this.#redraw = redraw;
  }

  /**
   * Show a scene.
   * @param {{scene: object, looks: object, theme: object}} what
   * @param {GraphCamera} camera
   * @param {{selected: number|null, hovered: number|null}} focus
   */
  show(what, camera, focus) {
    const { scene, looks, theme } = what;
    const ratio = this.#canvas.width / camera.width;
    if (this.#partsSeen(scene, camera) <= MOST_PARTS_ANEW) {
      this.#kept = null;
      this.#painter.draw(scene, looks, camera, theme);
    } else {
      const isKept = this.#kept?.what.scene === scene && this.#kept.what.looks === looks && this.#kept.what.theme === theme;
      if (!isKept || this.#kept.ratio !== ratio || !this.#serves(camera)) {
        this.#keep(what, camera, ratio);
      }
      this.#blit(camera, ratio, theme);
    }
    this.#painter.drawFocus(scene, camera, theme, focus);
  }

  /** Stop what is waiting. */
  destroy() {
    clearTimeout(this.#timer);
  }

  #partsSeen(scene, camera) {
    let parts = scene.links.length;
    scene.index.within(camera.view(), () => (parts += 1));
    return parts;
  }

  /** Whether the kept picture can stand for what the camera sees, for now. */
  #serves(camera) {
    const kept = this.#kept.camera;
    const stretch = camera.scale / kept.scale;
    if (stretch > STRETCH || stretch < 1 / STRETCH) {
      return false;
    }
    const [seen, drawn] = [camera.view(), kept.view()];
    const isWithin =
      seen.left >= drawn.left && seen.top >= drawn.top && seen.right <= drawn.right && seen.bottom <= drawn.bottom;
    if (stretch === 1) {
      return isWithin;
    }
    if (this.#kept.isSettling) {
      return false;
    }
    clearTimeout(this.#timer);
    const { camera: of } = this.#kept;
    this.#timer = setTimeout(() => {
      if (this.#kept?.camera === of) {
        this.#kept.isSettling = true;
        this.#redraw();
      }
    }, SETTLE_MS);
    return true;
  }

  #keep(what, camera, ratio) {
    clearTimeout(this.#timer);
    const wider = new GraphCamera();
    const [x, y] = [Math.ceil(camera.width * MARGIN), Math.ceil(camera.height * MARGIN)];
    Object.assign(wider, { scale: camera.scale, x: camera.x + x, y: camera.y + y });
    Object.assign(wider, { width: camera.width + 2 * x, height: camera.height + 2 * y });
    const [width, height] = [Math.round(wider.width * ratio), Math.round(wider.height * ratio)];
    if (this.#buffer.width !== width || this.#buffer.height !== height) {
      [this.#buffer.width, this.#buffer.height] = [width, height];
    }
    this.#bufferPainter.draw(what.scene, what.looks, wider, what.theme);
    this.#kept = { what, camera: wider, ratio, isSettling: false };
  }

  /** Put the kept picture where the camera sees it; whole pixels, so that moving does not blur it. */
  #blit(camera, ratio, theme) {
    const context = this.#canvas.getContext("2d");
    const kept = this.#kept.camera;
    const stretch = camera.scale / kept.scale;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = theme.surface;
    context.fillRect(0, 0, this.#canvas.width, this.#canvas.height);
    const left = Math.round((camera.x - kept.x * stretch) * ratio);
    const top = Math.round((camera.y - kept.y * stretch) * ratio);
    if (stretch === 1) {
      context.drawImage(this.#buffer, left, top);
    } else {
      context.imageSmoothingQuality = "low";
      context.drawImage(this.#buffer, left, top, this.#buffer.width * stretch, this.#buffer.height * stretch);
    }
  }
}
