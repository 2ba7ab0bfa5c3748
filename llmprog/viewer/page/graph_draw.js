// Drawing a scene: only what is seen, in as much detail as its size on the screen allows.

import { GRAPH_BOX } from "./graph_layout.js";
import { GRAPH_MARKS } from "./graph_look.js";
import { formatScore, shorten, visible } from "./text.js";

// Below this scale a box is a plain patch of colour.
const SCALE_OF_BOXES = 0.28;
// Of a state on one line; and of what stands in several lines, such as the note below it.
const FONT = { size: 13, leastPx: 9.5 };
const SMALL_FONT = { size: 11, leastPx: 9 };
// Lines stand as close as this, or as loose where there is room.
const LINE_HEIGHT = 1.04;
const LOOSE_LINE_HEIGHT = 1.22;
const EDGE = 4;
// Of the letters of a note, in parts of the size of the font.
const NOTE_LETTER = 0.54;
const MOST_CHARACTERS = 120;
const FADED = 0.4;
const PADDING = 9;
const MOST_CLEAR_LINKS = 60;
const MOST_BEND = 120;

/** Draws scenes on a canvas. */
export class GraphPainter {
  #canvas;
  #context;
  #seen = [];
  #labels = new WeakMap();

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
  }

  /**
   * Draw a scene.
   * @param {object} scene a `GraphScene`
   * @param {object} looks of `looksOf`
   * @param {object} camera a `GraphCamera`
   * @param {object} theme of `readGraphTheme`
   */
  draw(scene, looks, camera, theme) {
    const context = this.#context;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = theme.surface;
    context.fillRect(0, 0, this.#canvas.width, this.#canvas.height);
    const { scale } = camera;
    this.#look(camera);
    // One pixel of the screen: lines of at most this width are several times cheaper to draw than wider ones.
    const thin = camera.width / (this.#canvas.width * scale);
    const view = camera.view();
    const seen = this.#seen;
    seen.length = 0;
    scene.index.within(view, (id) => seen.push(id));
    this.#drawLines(scene, view, scale, thin, theme);
    this.#drawLinks(scene, view, scale, thin, theme);
    this.#drawSolution(scene, scale, theme);
    if (scale < SCALE_OF_BOXES) {
      this.#drawPatches(scene, looks, scale, theme);
    } else {
      this.#drawBoxes(scene, looks, scale, theme);
    }
    this.#drawMarks(scene, looks, scale, theme);
  }

  #look(camera) {
    const ratio = this.#canvas.width / camera.width;
    this.#context.setTransform(ratio * camera.scale, 0, 0, ratio * camera.scale, ratio * camera.x, ratio * camera.y);
  }

  /** The lines of the tree, in one path. */
  #drawLines(scene, view, scale, thin, theme) {
    const context = this.#context;
    const { x, y } = scene;
    const { lines, ticks } = scene.places;
    // What is shorter than a pixel is left out: at such a size the patches stand side by side anyway.
    const shortest = 1.5 / scale;
    context.beginPath();
    for (let at = 0; at < lines.length; at += 4) {
      const [x1, y1, x2, y2] = [lines[at], lines[at + 1], lines[at + 2], lines[at + 3]];
      if (x2 >= view.left && x1 <= view.right && y2 >= view.top && y1 <= view.bottom && x2 - x1 + y2 - y1 >= shortest) {
        context.moveTo(x1, y1);
        context.lineTo(x2, y2);
      }
    }
    if (scale >= SCALE_OF_BOXES / 2) {
      for (const id of this.#seen) {
        context.moveTo(x[id], y[id] - ticks[id]);
        context.lineTo(x[id], y[id]);
      }
    }
    context.strokeStyle = scale < SCALE_OF_BOXES ? theme.line : theme.strongLine;
    context.lineWidth = scale < SCALE_OF_BOXES ? thin : 1 / scale;
    context.stroke();
  }

  /**
   * Other parents and arrivals, as curves: these dashed, those not. Where there are many, those that only pass by are
   * left out, and the others are faint.
   */
  #drawLinks(scene, view, scale, thin, theme) {
    const context = this.#context;
    const { links } = scene;
    const isCrowded = links.length > MOST_CLEAR_LINKS;
    context.strokeStyle = theme.link;
    context.lineWidth = isCrowded ? thin : 1.2 / scale;
    context.globalAlpha = isCrowded ? Math.max(0.08, 0.8 * Math.sqrt(MOST_CLEAR_LINKS / links.length)) : 0.8;
    for (const isArrival of [false, true]) {
      context.setLineDash(isArrival && !isCrowded ? [5 / scale, 4 / scale] : []);
      context.beginPath();
      for (const link of links) {
        if (link.isArrival === isArrival && isInView(scene, link, view, isCrowded)) {
          curve(context, scene, link.from, link.to);
        }
      }
      context.stroke();
    }
    context.setLineDash([]);
    context.globalAlpha = 1;
  }

  #drawSolution(scene, scale, theme) {
    const context = this.#context;
    const { thoughts, solution } = scene.search;
    context.beginPath();
    for (const id of solution) {
      const parent = thoughts[id]?.parents[0];
      if (scene.has(id) && scene.has(parent)) {
        const corners = scene.places.way(parent, id);
        context.moveTo(corners[0], corners[1]);
        for (let at = 2; at < corners.length; at += 2) {
          context.lineTo(corners[at], corners[at + 1]);
        }
      }
    }
    context.strokeStyle = theme.solution;
    context.lineJoin = "round";
    context.lineWidth = Math.max(2.5, 3 * scale) / scale;
    context.stroke();
  }

  #drawPatches(scene, looks, scale, theme) {
    const context = this.#context;
    const colors = looks.legend.map((entry) => theme.color(entry.name));
    const { width, height } = GRAPH_BOX;
    this.#seen.sort((one, other) => looks.codes[one] - looks.codes[other]);
    let last = -1;
    for (const id of this.#seen) {
      if (looks.codes[id] !== last) {
        last = looks.codes[id];
        context.fillStyle = colors[last];
      }
      context.fillRect(scene.x[id] - width / 2, scene.y[id], width, height);
    }
    // What was given up fades behind a veil, whatever its colour.
    context.fillStyle = theme.surface;
    context.globalAlpha = 1 - FADED;
    for (const id of this.#seen) {
      if (looks.marks[id] & GRAPH_MARKS.pruned) {
        context.fillRect(scene.x[id] - width / 2, scene.y[id], width, height);
      }
    }
    context.globalAlpha = 1;
    this.#outline(scene, looks, GRAPH_MARKS.solution, theme.solution, 2 / scale);
    this.#outline(scene, looks, GRAPH_MARKS.match, theme.match, 2 / scale);
  }

  #outline(scene, looks, mark, color, thickness) {
    const context = this.#context;
    context.beginPath();
    for (const id of this.#seen) {
      if (looks.marks[id] & mark) {
        context.rect(scene.x[id] - GRAPH_BOX.width / 2, scene.y[id], GRAPH_BOX.width, GRAPH_BOX.height);
      }
    }
    context.strokeStyle = color;
    context.lineWidth = thickness;
    context.stroke();
  }

  #drawBoxes(scene, looks, scale, theme) {
    const context = this.#context;
    const { width, height } = GRAPH_BOX;
    const colors = looks.legend.map((entry) => theme.color(entry.name));
    context.textBaseline = "middle";
    for (const id of this.#seen) {
      const [left, top] = [scene.x[id] - width / 2, scene.y[id]];
      const color = colors[looks.codes[id]];
      const isSolution = (looks.marks[id] & GRAPH_MARKS.solution) !== 0;
      context.beginPath();
      context.roundRect(left, top, width, height, 6);
      context.fillStyle = theme.surface;
      context.fill();
      const strength = looks.marks[id] & GRAPH_MARKS.pruned ? FADED : 1;
      context.globalAlpha = 0.12 * strength;
      context.fillStyle = color;
      context.fill();
      context.globalAlpha = strength;
      context.strokeStyle = isSolution ? theme.solution : color;
      context.lineWidth = (isSolution ? 2.2 : 1) / Math.min(1, scale);
      context.stroke();
      context.beginPath();
      context.roundRect(left, top, 5, height, [6, 0, 0, 6]);
      context.fill();
      this.#drawText(scene.search.thoughts[id], looks.scores[id], left, top, scale, theme);
      context.globalAlpha = 1;
    }
    this.#outline(scene, looks, GRAPH_MARKS.match, theme.match, 3 / Math.min(1, scale));
  }

  /** The state, in two lines where one does not hold it, and below it the node and the score where there is room. */
  #drawText(thought, score, left, top, scale, theme) {
    const context = this.#context;
    const [size, small] = [FONT, SMALL_FONT].map((font) => Math.max(font.size, font.leastPx / scale));
    const start = left + 5 + PADDING / 2;
    const room = GRAPH_BOX.width - 5 - PADDING;
    const first = room - (thought.goal || thought.status === "invalid" ? 14 : 0);
    const { text, letter } = this.#labelOf(thought, theme);
    const lettersIn = (width, of) => Math.max(2, Math.floor(width / (of * letter)));
    const lines = [];
    const holds = (more) => lines.reduce((sum, line) => sum + line.size, more) * LINE_HEIGHT <= GRAPH_BOX.height;
    if (text.length <= lettersIn(first, size) || !holds(2 * small)) {
      lines.push({ text: shorten(text, lettersIn(first, size)), size, ink: theme.ink });
    } else if (text.length <= lettersIn(first, small)) {
      lines.push({ text, size: small, ink: theme.ink });
    } else {
      const [one, other] = brokenLine(text, lettersIn(first, small), lettersIn(room, small));
      lines.push({ text: one, size: small, ink: theme.ink }, { text: other, size: small, ink: theme.ink });
    }
    const notes = [shorten(visible(thought.node || "start"), 18), Number.isNaN(score) ? "" : formatScore(score)];
    if (holds(lines.length > 1 ? small + EDGE : small)) {
      const note = notes.filter(Boolean).join(" · ");
      lines.push({ text: shorten(note, Math.floor(room / (small * NOTE_LETTER))), size: small, ink: theme.quiet });
    }
    const sizes = lines.reduce((sum, line) => sum + line.size, 0);
    const spread = Math.min(LOOSE_LINE_HEIGHT, Math.max(LINE_HEIGHT, (GRAPH_BOX.height - EDGE) / sizes));
    let y = top + (GRAPH_BOX.height - sizes * spread) / 2;
    lines.forEach((line, index) => {
      context.font = `${line.ink === theme.ink ? "500 " : ""}${line.size}px ${theme.family}`;
      context.fillStyle = line.ink;
      context.fillText(line.text, start, y + (line.size * spread) / 2 + 0.5, index === 0 ? first : room);
      y += line.size * spread;
    });
  }

  /** The state of a thought on one line, and how wide its letters are on average, in parts of the size of the font. */
  #labelOf(thought, theme) {
    let label = this.#labels.get(thought);
    if (label === undefined) {
      const text = shorten(visible(thought.state), MOST_CHARACTERS);
      this.#context.font = `500 ${FONT.size}px ${theme.family}`;
      const width = this.#context.measureText(text).width;
      label = { text, letter: text === "" ? 1 : width / text.length / FONT.size };
      this.#labels.set(thought, label);
    }
    return label;
  }

  /** Goals have a star, what was refused is struck out, and what is folded says how much it hides. */
  #drawMarks(scene, looks, scale, theme) {
    const context = this.#context;
    const half = GRAPH_BOX.width / 2;
    const size = Math.max(8, 5 / scale);
    context.beginPath();
    for (const id of this.#seen) {
      if (looks.marks[id] & GRAPH_MARKS.goal) {
        star(context, scene.x[id] + half - 12, scene.y[id] + 13, size);
      }
    }
    context.fillStyle = theme.goal;
    context.strokeStyle = theme.surface;
    context.lineWidth = 2 / scale;
    context.stroke();
    context.fill();
    if (scale >= SCALE_OF_BOXES) {
      context.beginPath();
      for (const id of this.#seen) {
        if (looks.marks[id] & GRAPH_MARKS.invalid) {
          context.moveTo(scene.x[id] + half - 16, scene.y[id] + 8);
          context.lineTo(scene.x[id] + half - 8, scene.y[id] + 16);
          context.moveTo(scene.x[id] + half - 8, scene.y[id] + 8);
          context.lineTo(scene.x[id] + half - 16, scene.y[id] + 16);
        }
      }
      context.strokeStyle = theme.invalid;
      context.lineWidth = 1.6;
      context.stroke();
    }
    for (const [id, count] of scene.foldedSizes) {
      if (count > 0 && scene.has(id)) {
        this.#drawBadge(`+${count}`, scene.x[id], scene.y[id] + GRAPH_BOX.height, scale, theme);
      }
    }
  }

  #drawBadge(text, x, y, scale, theme) {
    const context = this.#context;
    const zoom = Math.max(1, 0.6 / scale);
    context.font = `11px ${theme.family}`;
    const width = (context.measureText(text).width + 12) * zoom;
    context.save();
    context.translate(x, y);
    context.scale(zoom, zoom);
    context.beginPath();
    context.roundRect(-width / zoom / 2, -7, width / zoom, 16, 8);
    context.fillStyle = theme.accent;
    context.fill();
    context.fillStyle = theme.surface;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(text, 0, 1.5);
    context.restore();
  }

  /** Frame what is selected and what is pointed at, above all else, and show where else they lead and come from. */
  drawFocus(scene, camera, theme, focus) {
    const context = this.#context;
    const { scale } = camera;
    this.#look(camera);
    const { selected, hovered } = focus;
    context.beginPath();
    for (const { from, to } of selected === null && hovered === null ? [] : scene.links) {
      if (from === selected || to === selected || from === hovered || to === hovered) {
        curve(context, scene, from, to);
      }
    }
    context.strokeStyle = theme.link;
    context.lineWidth = 2.2 / Math.min(scale, 1);
    context.stroke();
    for (const [id, thickness, color] of [
      [focus.hovered, 1.5, theme.ink],
      [focus.selected, 2.5, theme.accent],
    ]) {
      if (id !== null && scene.has(id)) {
        const gap = 3 / Math.min(scale, 1);
        const [left, top] = [scene.x[id] - GRAPH_BOX.width / 2 - gap, scene.y[id] - gap];
        context.beginPath();
        context.roundRect(left, top, GRAPH_BOX.width + 2 * gap, GRAPH_BOX.height + 2 * gap, 8);
        context.strokeStyle = color;
        context.lineWidth = thickness / Math.min(scale, 1);
        context.stroke();
      }
    }
  }
}

/** A text in two lines of so many letters at most, parted between words where there are words. */
function brokenLine(text, first, second) {
  const space = text.lastIndexOf(" ", first);
  const end = space >= first / 2 ? space : first;
  return [text.slice(0, end), shorten(text.slice(end), second)];
}

/** Whether a link may be seen, or, if `isByEnds`, one of its ends. */
function isInView({ x, y }, { from, to }, view, isByEnds) {
  if (isByEnds) {
    return isPointInView(x[from], y[from], view) || isPointInView(x[to], y[to], view);
  }
  const [left, right] = x[from] < x[to] ? [x[from], x[to]] : [x[to], x[from]];
  const [top, bottom] = y[from] < y[to] ? [y[from], y[to]] : [y[to], y[from]];
  return right >= view.left && left <= view.right && bottom + MOST_BEND >= view.top && top - MOST_BEND <= view.bottom;
}

function isPointInView(x, y, view) {
  return x >= view.left && x <= view.right && y >= view.top && y <= view.bottom;
}

/** A curve from the lower edge of one box to the upper edge of another. */
function curve(context, { x, y }, from, to) {
  const [x1, y1, x2, y2] = [x[from], y[from] + GRAPH_BOX.height, x[to], y[to]];
  const bend = Math.max(16, Math.min(Math.abs(y2 - y1) / 2, MOST_BEND));
  context.moveTo(x1, y1);
  context.bezierCurveTo(x1, y1 + bend, x2, y2 - bend, x2, y2);
}

/** A star of five points around (x, y). */
function star(context, x, y, size) {
  for (let corner = 0; corner < 10; corner += 1) {
    const radius = corner % 2 === 0 ? size : size * 0.42;
    const angle = (corner * Math.PI) / 5 - Math.PI / 2;
    const [px, py] = [x + radius * Math.cos(angle), y + radius * Math.sin(angle)];
    if (corner === 0) {
      context.moveTo(px, py);
    } else {
      context.lineTo(px, py);
    }
  }
  context.closePath();
}
