// A picture painted point by point, which takes a canvas as long for ten thousand rectangles as for ten.

const HATCH_PX = 8;
const HATCHED_PX = 3;
// So few points are set faster one by one.
const FILLED_FROM = 24;

/** Rectangles in whole pixels of the page, on a part of a canvas. */
export class Pixels {
  #image = null;
  #words = null;
  #ratio = 1;
  #colors = new Map();
  #probe = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", {
    willReadFrequently: true,
  });

  /**
   * Begin a picture.
   * @param {number} width in pixels of the page
   * @param {number} height
   * @param {number} ratio points of the screen that make up a pixel of the page, across
   * @param {number} color of its ground, of `color`
   */
  begin(width, height, ratio, color) {
    const [across, down] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
    if (this.#image?.width !== across || this.#image.height !== down) {
      this.#image = new ImageData(across, down);
      this.#words = new Uint32Array(this.#image.data.buffer);
    }
    this.#ratio = ratio;
    this.#words.fill(color);
  }

  /** A colour as a point has it; one that is seen through, as it is on a ground. */
  color(css, alpha = 1, ground = "") {
    const key = `${css} ${alpha} ${ground}`;
    let found = this.#colors.get(key);
    if (found === undefined) {
      const probe = this.#probe;
      for (const [style, share] of [[ground || css, 1], [css, alpha]]) {
        probe.fillStyle = style;
        probe.globalAlpha = share;
        probe.fillRect(0, 0, 1, 1);
      }
      [found] = new Uint32Array(probe.getImageData(0, 0, 1, 1).data.buffer);
      this.#colors.set(key, found);
    }
    return found;
  }

  /** Paint a rectangle, as far as it is within the picture. */
  rect(left, right, top, height, color) {
    const { width } = this.#image;
    const words = this.#words;
    const [from, to, first, last] = this.#within(left, right, top, height);
    for (let row = first * width; row < last * width; row += width) {
      if (to - from > FILLED_FROM) {
        words.fill(color, row + from, row + to);
      } else {
        for (let at = row + from; at < row + to; at += 1) {
          words[at] = color;
        }
      }
    }
  }

  /** Paint slanted lines over a rectangle. */
  hatch(left, right, top, height, color) {
    const { width } = this.#image;
    const [from, to, first, last] = this.#within(left, right, top, height);
    const [every, thick] = [HATCH_PX * this.#ratio, HATCHED_PX * this.#ratio];
    for (let y = first; y < last; y += 1) {
      for (let x = from; x < to; x += 1) {
        if ((x + y) % every < thick) {
          this.#words[y * width + x] = color;
        }
      }
    }
  }

  /** Put the picture on a canvas, its upper edge at `top` pixels of the page. */
  show(context, top) {
    context.putImageData(this.#image, 0, Math.round(top * this.#ratio));
  }

  #within(left, right, top, height) {
    const ratio = this.#ratio;
    return [
      Math.max(0, Math.round(left * ratio)),
      Math.min(this.#image.width, Math.round(right * ratio)),
      Math.max(0, Math.round(top * ratio)),
      Math.min(this.#image.height, Math.round((top + height) * ratio)),
    ];
  }
}
