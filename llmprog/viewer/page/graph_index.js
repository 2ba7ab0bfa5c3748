// Which thoughts stand in a part of the picture, without looking at all of them: a grid of cells over their places.

const CELL = { width: 640, height: 480 };

/** Thoughts by their places; `width` and `height` are the size of their boxes. */
export class PlaceIndex {
  #x;
  #y;
  #box;
  #ids;
  #starts;
  #columns;
  #rows;

  /**
   * @param {number[]} ids
   * @param {Float64Array} x the middle of the upper edge, by id
   * @param {Float64Array} y
   * @param {{width: number, height: number}} box
   * @param {{width: number, height: number}} picture within which all places are
   */
  constructor(ids, x, y, box, picture) {
    this.#x = x;
    this.#y = y;
    this.#box = box;
    this.#columns = Math.max(1, Math.ceil(picture.width / CELL.width));
    this.#rows = Math.max(1, Math.ceil(picture.height / CELL.height));
    this.#starts = new Int32Array(this.#columns * this.#rows + 1);
    for (const id of ids) {
      this.#starts[this.#cellOf(x[id], y[id]) + 1] += 1;
    }
    for (let cell = 1; cell < this.#starts.length; cell += 1) {
      this.#starts[cell] += this.#starts[cell - 1];
    }
    const next = this.#starts.slice();
    this.#ids = new Int32Array(ids.length);
    for (const id of ids) {
      this.#ids[next[this.#cellOf(x[id], y[id])]++] = id;
    }
  }

  /** Call `visit(id)` for each thought whose box is at least partly within the rectangle. */
  within({ left, top, right, bottom }, visit) {
    const half = this.#box.width / 2;
    const [firstColumn, lastColumn] = [this.#columnOf(left - half), this.#columnOf(right + half)];
    const [firstRow, lastRow] = [this.#rowOf(top - this.#box.height), this.#rowOf(bottom)];
    for (let row = firstRow; row <= lastRow; row += 1) {
      const end = this.#starts[row * this.#columns + lastColumn + 1];
      for (let place = this.#starts[row * this.#columns + firstColumn]; place < end; place += 1) {
        const id = this.#ids[place];
        const [x, y] = [this.#x[id], this.#y[id]];
        if (x + half >= left && x - half <= right && y + this.#box.height >= top && y <= bottom) {
          visit(id);
        }
      }
    }
  }

  /** The thought whose box, made `slack` larger on each side, holds the point, the nearest of several; or null. */
  at(x, y, slack) {
    let [found, least] = [null, Infinity];
    this.within({ left: x - slack, top: y - slack, right: x + slack, bottom: y + slack }, (id) => {
      const distance = Math.abs(this.#x[id] - x) + Math.abs(this.#y[id] + this.#box.height / 2 - y);
      if (distance < least) {
        [found, least] = [id, distance];
      }
    });
    return found;
  }

  /** The thought whose box is nearest to a point, or null if there is none. */
  nearest(x, y) {
    let [found, least] = [null, Infinity];
    for (const id of this.#ids) {
      const distance = Math.hypot(this.#x[id] - x, this.#y[id] + this.#box.height / 2 - y);
      if (distance < least) {
        [found, least] = [id, distance];
      }
    }
    return found;
  }

  #columnOf(x) {
    return Math.min(this.#columns - 1, Math.max(0, Math.floor(x / CELL.width)));
  }

  #rowOf(y) {
    return Math.min(this.#rows - 1, Math.max(0, Math.floor(y / CELL.height)));
  }

  #cellOf(x, y) {
    return this.#rowOf(y) * this.#columns + this.#columnOf(x);
  }
}
