// The part of the picture that is seen: how large, and where.

const LARGEST_SCALE = 2.5;
const FIT_MARGIN = 18;
const REVEAL_MARGIN = 56;
const LARGEST_FIT = 1.1;

/** Maps the picture's units to pixels of the canvas: `pixel = unit * scale + offset`. */
export class GraphCamera {
  constructor() {
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.width = 1;
    this.height = 1;
    this.smallestScale = 0.02;
  }

  /** Take the size of the canvas, in CSS pixels; what was in the middle stays there. */
  resize(width, height) {
    this.x += (width - this.width) / 2;
    this.y += (height - this.height) / 2;
    this.width = width;
    this.height = height;
  }

  /** The rectangle of the picture that is seen. */
  view() {
    const [left, top] = this.toPicture(0, 0);
    const [right, bottom] = this.toPicture(this.width, this.height);
    return { left, top, right, bottom };
  }

  toPicture(x, y) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  toCanvas(x, y) {
    return [x * this.scale + this.x, y * this.scale + this.y];
  }

  /** The room for a whole picture, or null before the canvas has a size. */
  room() {
    const [width, height] = [this.width - 2 * FIT_MARGIN, this.height - 2 * FIT_MARGIN];
    return width > 0 && height > 0 ? { width, height } : null;
  }

  /** Show the whole picture, in the middle; small pictures stay at a readable size. */
  fit(picture) {
    const [width, height] = [Math.max(picture.width, 1), Math.max(picture.height, 1)];
    const wanted = Math.min((this.width - 2 * FIT_MARGIN) / width, (this.height - 2 * FIT_MARGIN) / height);
    this.smallestScale = Math.min(0.25, Math.max(wanted, 1e-4) / 2);
    this.scale = Math.min(LARGEST_FIT, Math.max(wanted, this.smallestScale));
    this.x = (this.width - width * this.scale) / 2;
    this.y = Math.max(FIT_MARGIN, Math.min((this.height - height * this.scale) / 2, this.height / 5));
  }

  /** Enlarge by `factor`, so that the point of the canvas (x, y) keeps showing the same place. */
  zoomBy(factor, x, y) {
    const scale = Math.min(LARGEST_SCALE, Math.max(this.smallestScale, this.scale * factor));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
  }

  /** Move by pixels. */
  panBy(dx, dy) {
    this.x += dx;
    this.y += dy;
  }

  /** Move as little as brings the box of the picture into view. */
  reveal(left, top, width, height) {
    const [x, y] = this.toCanvas(left, top);
    const [right, bottom] = [x + width * this.scale, y + height * this.scale];
    this.x += Math.max(0, REVEAL_MARGIN - x) - Math.max(0, right - (this.width - REVEAL_MARGIN));
    this.y += Math.max(0, REVEAL_MARGIN - y) - Math.max(0, bottom - (this.height - REVEAL_MARGIN));
  }

  /** Put a place of the picture into the middle. */
  center(x, y) {
    this.x = this.width / 2 - x * this.scale;
    this.y = this.height / 2 - y * this.scale;
  }
}
