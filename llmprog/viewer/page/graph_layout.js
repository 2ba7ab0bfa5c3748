// Where thoughts stand: each below its first parent, as a tidy tree that is broken into rows where it grows too wide.
//
// A sub-tree that is narrow enough has its levels at the same heights: a thought stands above its children, which stand
// side by side, neighbouring leaves together in one block of a few rows. A sub-tree that is wider than the page has room
// for goes on below, its children in rows ("shelves") as words in a paragraph, a little further to the right than itself. So
// small graphs are plain trees, and ten thousand thoughts are about as wide as they are high. The page grows in steps, and
// order is that of arrival: while thoughts come in, most places stay. Time and memory are linear in the thoughts. A few dozen
// thoughts take the page on which they are seen largest in the room that there is, so that they can be read at once.

/** The size of a thought's box, in units of the picture. */
export const GRAPH_BOX = { width: 152, height: 42 };
/** The most thoughts whose places depend on the room that there is. */
export const GRAPH_MOST_FITTED = 120;
const SLOT = { width: 162, height: 50 };
const LEVEL_GAP = 24;
const INDENT = 14;
const MOST_LEAVES_IN_LINE = 5;
const ASPECT = 1.5;
const NARROWEST_PAGE = 13 * SLOT.width;
const PAGE_STEP = 1.25;
const FITTED_COLUMNS = [13, 11, 9, 8, 7, 6, 5, 4, 3];
// How much larger thoughts have to be seen for their tree to be broken into more rows.
const WORTH_BREAKING = 1.03;

/**
 * Places for a forest.
 * @param {number[]} roots
 * @param {(id: number) => number[]} childrenOf those that are shown
 * @param {number} size greater than every id
 * @param {{width: number, height: number}|null} room in which all is to be seen at once; null where that is not known
 * @returns {GraphPlaces}
 */
export function layoutForest(roots, childrenOf, size, room = null) {
  const order = preorder(roots, childrenOf);
  const natural = naturalWidths(order, childrenOf, size);
  if (room !== null && order.length <= GRAPH_MOST_FITTED) {
    return fitted((page) => new GraphPlaces(order, roots, childrenOf, natural, page, size), room);
  }
  let page = pageFor(Math.sqrt(order.length * SLOT.width * SLOT.height * 2.2 * ASPECT));
  let places = new GraphPlaces(order, roots, childrenOf, natural, page, size);
  const wanted = pageFor(page * Math.sqrt((ASPECT * places.height) / Math.max(places.width, 1)));
  if (places.isBroken && wanted !== page) {
    page = wanted;
    places = new GraphPlaces(order, roots, childrenOf, natural, page, size);
  }
  return places;
}

/** Of the places on several pages those that are seen largest in a room, the wider page where it makes little difference. */
function fitted(placesOn, room) {
  let [best, largest] = [null, 0];
  for (const columns of FITTED_COLUMNS) {
    const places = placesOn(columns * SLOT.width);
    const scale = Math.min(room.width / places.width, room.height / places.height);
    if (best === null || scale > WORTH_BREAKING * largest) {
      [best, largest] = [places, scale];
    }
  }
  return best;
}

/** The least of the widths that pages have which is not below `width`. */
function pageFor(width) {
  const steps = Math.ceil(Math.log(Math.max(width / NARROWEST_PAGE, 1)) / Math.log(PAGE_STEP));
  return NARROWEST_PAGE * PAGE_STEP ** steps;
}

/** All ids of a forest, parents before children, without recursion: a search can be thousands of levels deep. */
function preorder(roots, childrenOf) {
  const order = [];
  const stack = [...roots].reverse();
  while (stack.length > 0) {
    const id = stack.pop();
    order.push(id);
    const children = childrenOf(id);
    for (let index = children.length - 1; index >= 0; index -= 1) {
      stack.push(children[index]);
    }
  }
  return order;
}

/** How wide each sub-tree is if nothing of it goes on below. */
function naturalWidths(order, childrenOf, size) {
  const widths = new Float64Array(size).fill(SLOT.width);
  const heights = new Float64Array(size).fill(GRAPH_BOX.height);
  for (let index = order.length - 1; index >= 0; index -= 1) {
    const children = childrenOf(order[index]);
    if (children.length > 0) {
      const blocks = blocksOf(children, widths, heights, Infinity);
      widths[order[index]] = blocks.reduce((sum, block) => sum + block.width, 0);
      heights[order[index]] = GRAPH_BOX.height + LEVEL_GAP + Math.max(...blocks.map((block) => block.height));
    }
  }
  return widths;
}

/**
 * Children as blocks: each sub-tree one, and neighbouring leaves together, in columns as high as the highest sub-tree
 * beside them that is not wider than `limit`.
 */
function blocksOf(children, widths, heights, limit) {
  const blocks = [];
  let [leaves, highest] = [null, 0];
  for (const child of children) {
    if (heights[child] > GRAPH_BOX.height) {
      blocks.push({ ids: [child], columns: 1, width: widths[child], height: heights[child] });
      highest = widths[child] <= limit / 2 ? Math.max(highest, heights[child]) : highest;
      leaves = null;
    } else if (leaves === null) {
      leaves = { ids: [child] };
      blocks.push(leaves);
    } else {
      leaves.ids.push(child);
    }
  }
  return blocks.map((block) => (block.width === undefined ? leafBlock(block.ids, highest) : block));
}

/** A block of leaves. Its columns are 3, 4, 6, 8, 12, …, so that it seldom breaks its rows anew; fewer if it may be high. */
function leafBlock(ids, highest) {
  const count = ids.length;
  let columns = count;
  if (count > MOST_LEAVES_IN_LINE) {
    const wanted = Math.sqrt((count * ASPECT * SLOT.height) / SLOT.width);
    columns = 3;
    for (let step = 0; columns < wanted; step += 1) {
      columns = step % 2 === 0 ? (columns * 4) / 3 : (columns * 3) / 2;
    }
  }
  const rowsBeside = Math.max(1, Math.floor((highest - GRAPH_BOX.height) / SLOT.height) + 1);
  columns = Math.min(columns, Math.ceil(count / rowsBeside));
  const rows = Math.ceil(count / columns);
  const width = columns * SLOT.width + (rows > 1 ? INDENT : 0);
  return { ids, columns, width, height: (rows - 1) * SLOT.height + GRAPH_BOX.height };
}

/**
 * Where each thought stands, and the lines of the tree.
 *
 * `x` and `y` by id are the middle of a box's upper edge, `NaN` of what is not shown; `order` holds the ids that have a
 * place, parents first. `lines` has four numbers for each line between parents and children, but for the short pieces
 * right above the children, whose lengths are in `ticks`. `isBroken`: some children stand in several shelves.
 */
class GraphPlaces {
  #childrenOf;
  #widths;
  #heights;
  #middles;
  #owners = [];
  #limits;
  #rails;

  constructor(order, roots, childrenOf, natural, page, size) {
    this.order = order;
    this.x = new Float64Array(size).fill(NaN);
    this.y = new Float64Array(size).fill(NaN);
    this.ticks = new Float64Array(size);
    this.lines = [];
    this.isBroken = false;
    this.#childrenOf = childrenOf;
    this.#widths = new Float64Array(size);
    this.#heights = new Float64Array(size);
    this.#middles = new Float64Array(size);
    // Of each thought: x of the rail beside the shelves, y of its shelf's rail, x of the rail beside its block.
    this.#rails = { page: new Float64Array(size), shelf: new Float64Array(size), block: new Float64Array(size) };
    this.#limits = this.#limitsFor(order, roots, natural, page, size);
    const firstLines = new Int32Array(size);
    for (let index = order.length - 1; index >= 0; index -= 1) {
      firstLines[order[index]] = this.#owners.length;
      this.#arrange(order[index], childrenOf(order[index]));
    }
    const { width, height } = this.#shelve(null, roots, page);
    this.width = width;
    this.height = height;
    this.#makeAbsolute(firstLines);
  }

  /** The corners of the way from a thought's parent down to it, along the lines: x and y by turns. */
  way(parent, id) {
    const { page, shelf, block } = this.#rails;
    const corners = [this.x[parent], this.y[parent] + GRAPH_BOX.height];
    const first = this.y[parent] + GRAPH_BOX.height + LEVEL_GAP / 2;
    if (shelf[id] > first) {
      corners.push(this.x[parent], first, page[id], first, page[id], shelf[id]);
    } else {
      corners.push(this.x[parent], first);
    }
    const last = this.y[id] - this.ticks[id];
    if (last > shelf[id]) {
      corners.push(block[id], shelf[id], block[id], last);
    }
    corners.push(this.x[id], last, this.x[id], this.y[id]);
    return corners;
  }

  /** The room that each sub-tree has: without bound where it fits, else that of its parent, less an indent. */
  #limitsFor(order, roots, natural, page, size) {
    const limits = new Float64Array(size).fill(Infinity);
    for (const root of roots) {
      limits[root] = natural[root] > page ? page : Infinity;
    }
    for (const id of order) {
      if (limits[id] < Infinity) {
        const room = Math.max(limits[id] - INDENT, page / 2);
        for (const child of this.#childrenOf(id)) {
          limits[child] = natural[child] > room ? room : Infinity;
        }
      }
    }
    return limits;
  }

  /** Place children within the box of their parent, and set that box. */
  #arrange(id, children) {
    this.#widths[id] = SLOT.width;
    this.#heights[id] = GRAPH_BOX.height;
    this.#middles[id] = SLOT.width / 2;
    if (children.length > 0) {
      const { width, height } = this.#shelve(id, children, this.#limits[id]);
      this.#widths[id] = width;
      this.#heights[id] = height;
    }
  }

  /** Place children in shelves no wider than `limit`; `id` is null for the roots, which have no lines above them. */
  #shelve(id, children, limit) {
    const blocks = blocksOf(children, this.#widths, this.#heights, limit);
    const shelves = shelvesOf(blocks, limit - (limit < Infinity ? INDENT : 0));
    this.isBroken ||= shelves.length > 1;
    const indent = shelves.length > 1 && id !== null ? INDENT : 0;
    let [top, widest] = [id === null ? 0 : GRAPH_BOX.height + LEVEL_GAP, 0];
    const rails = [];
    for (const shelf of shelves) {
      const rail = { y: top - LEVEL_GAP / 2, from: Infinity, to: -Infinity };
      let left = indent;
      for (const block of shelf.blocks) {
        this.#placeBlock(id, block, left, top, rail);
        left += block.width;
      }
      rails.push(rail);
      widest = Math.max(widest, left);
      top += shelf.height + LEVEL_GAP;
    }
    if (id !== null) {
      this.#middles[id] = indent > 0 ? SLOT.width / 2 : (rails[0].from + rails[0].to) / 2;
      this.#drawRails(id, rails, indent / 2);
      for (const child of children) {
        this.#rails.page[child] = indent / 2;
      }
    }
    return { width: widest, height: Math.max(0, top - LEVEL_GAP) };
  }

  /** Place a block at (left, top) within its parent's box; `rail` learns where its first row begins and ends. */
  #placeBlock(owner, { ids, columns }, left, top, rail) {
    const isBroken = ids.length > columns;
    const side = left + INDENT / 2;
    ids.forEach((child, index) => {
      const row = Math.floor(index / columns);
      this.x[child] = left + (isBroken ? INDENT : 0) + (index % columns) * SLOT.width;
      this.y[child] = top + row * SLOT.height;
      // Above a root there is nothing that a line could come from.
      this.ticks[child] = owner === null ? 0 : row === 0 ? LEVEL_GAP / 2 : (SLOT.height - GRAPH_BOX.height) / 2;
      this.#rails.shelf[child] = rail.y;
      this.#rails.block[child] = side;
    });
    const lastOfRow = ids[Math.min(columns, ids.length) - 1];
    rail.from = Math.min(rail.from, this.x[ids[0]] + this.#middles[ids[0]]);
    rail.to = Math.max(rail.to, this.x[lastOfRow] + this.#middles[lastOfRow]);
    if (owner === null || !isBroken) {
      return;
    }
    rail.from = Math.min(rail.from, side);
    let y = rail.y;
    for (let start = columns; start < ids.length; start += columns) {
      const last = ids[Math.min(start + columns, ids.length) - 1];
      y = this.y[last] - this.ticks[last];
      this.#addLine(owner, side, y, this.x[last] + this.#middles[last], y);
    }
    this.#addLine(owner, side, rail.y, side, y);
  }

  /** The lines from a thought down to the shelves of its children, and along them; `side` is the x of that beside them. */
  #drawRails(id, rails, side) {
    const [middle, first] = [this.#middles[id], rails[0]];
    this.#addLine(id, middle, GRAPH_BOX.height, middle, first.y);
    for (const rail of rails) {
      const from = rails.length > 1 ? side : Math.min(rail.from, middle);
      this.#addLine(id, from, rail.y, rail === first ? Math.max(rail.to, middle) : rail.to, rail.y);
    }
    if (rails.length > 1) {
      this.#addLine(id, side, first.y, side, rails.at(-1).y);
    }
  }

  #addLine(owner, x1, y1, x2, y2) {
    if (x1 !== x2 || y1 !== y2) {
      this.lines.push(x1, y1, x2, y2);
      this.#owners.push(owner);
    }
  }

  /** Until here all places and lines are within the parent's box; parents come first, so one pass makes them absolute. */
  #makeAbsolute(firstLines) {
    const { page, shelf, block } = this.#rails;
    for (const id of this.order) {
      const [left, top] = [this.x[id], this.y[id]];
      for (let line = firstLines[id]; this.#owners[line] === id; line += 1) {
        this.lines[4 * line] += left;
        this.lines[4 * line + 1] += top;
        this.lines[4 * line + 2] += left;
        this.lines[4 * line + 3] += top;
      }
      for (const child of this.#childrenOf(id)) {
        this.x[child] += left;
        this.y[child] += top;
        page[child] += left;
        shelf[child] += top;
        block[child] += left;
      }
      this.x[id] = left + this.#middles[id];
    }
  }
}

/** Blocks in rows, none wider than `limit` but for a block that alone is. */
function shelvesOf(blocks, limit) {
  const shelves = [];
  let last = null;
  for (const block of blocks) {
    if (last === null || last.width + block.width > limit) {
      last = { blocks: [], width: 0, height: 0 };
      shelves.push(last);
    }
    last.blocks.push(block);
    last.width += block.width;
    last.height = Math.max(last.height, block.height);
  }
  return shelves;
}
