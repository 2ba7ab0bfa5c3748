// A table of any length that draws only the rows in sight.

import { el, fill } from "./text.js";

const ROW_HEIGHT = 34;
const ROWS_BEYOND = 8;

/**
 * A scrolling table.
 * @param {object} options
 * @param {string} options.label what the table is, for those who do not see it
 * @param {string} options.testid
 * @param {Array<{title: string, width: string, isNumber?: boolean, cell: function(object): any}>} options.columns
 *   `cell` gives what `el` takes as children
 * @param {function(object): string} options.signature a row is drawn again when this changes
 * @param {function(object)} options.onSelect called with the row that is clicked, or chosen with Enter
 * @param {string} options.empty what is said where there are no rows
 * @returns {{element: HTMLElement, setRows: function(object[]), mark: function(function(object): boolean)}}
 */
export function createVirtualTable({ label, testid, columns, signature, onSelect, empty }) {
  const template = columns.map((column) => column.width).join(" ");
  const head = el(
    "div",
    { class: "vt-head", role: "row" },
    columns.map((column) => el("span", { role: "columnheader", class: column.isNumber && "number" }, column.title)),
  );
  head.style.gridTemplateColumns = template;
  const body = el("div", { class: "vt-body", role: "rowgroup" });
  const nothing = el("p", { class: "quiet vt-empty" }, empty);
  const element = el(
    "div",
    { class: "vt", role: "table", "aria-label": label, tabindex: "0", "data-testid": testid },
    head,
    body,
    nothing,
  );
  const drawn = new Map();
  let rows = [];
  let active = -1;
  let isMarked = () => false;

  const draw = () => {
    const first = Math.max(0, Math.floor(element.scrollTop / ROW_HEIGHT) - ROWS_BEYOND);
    const last = Math.min(
      rows.length,
      Math.ceil((element.scrollTop + element.clientHeight) / ROW_HEIGHT) + ROWS_BEYOND,
    );
    for (const [index, row] of drawn) {
      if (index < first || index >= last) {
        row.element.remove();
        drawn.delete(index);
      }
    }
    for (let index = first; index < last; index += 1) {
      drawRow(index);
    }
  };
  const drawRow = (index) => {
    const row = rows[index];
    const sign = signature(row);
    let known = drawn.get(index);
    if (known === undefined) {
      known = { element: newRow(index), row: null, sign: null };
      drawn.set(index, known);
      body.append(known.element);
    }
    known.element.classList.toggle("marked", isMarked(row));
    known.element.classList.toggle("active", index === active);
    if (known.sign === sign && known.row === row) {
      return;
    }
    known.sign = sign;
    known.row = row;
    fill(
      known.element,
      columns.map((column) => el("span", { role: "cell", class: column.isNumber && "number" }, column.cell(row))),
    );
  };
  const newRow = (index) => {
    const choose = () => {
      active = index;
      onSelect(rows[index]);
      draw();
    };
    const made = el("div", {
      class: "vt-row",
      role: "row",
      "aria-rowindex": index + 2,
      "data-testid": `${testid}-row`,
      click: choose,
    });
    made.style.gridTemplateColumns = template;
    made.style.transform = `translateY(${index * ROW_HEIGHT}px)`;
    return made;
  };
  const moveTo = (index) => {
    active = Math.max(0, Math.min(rows.length - 1, index));
    const top = active * ROW_HEIGHT;
    if (top < element.scrollTop) {
      element.scrollTop = top;
    } else if (top + 2 * ROW_HEIGHT > element.scrollTop + element.clientHeight) {
      element.scrollTop = top + 2 * ROW_HEIGHT - element.clientHeight;
    }
    draw();
  };

  element.addEventListener("scroll", draw, { passive: true });
  element.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(element.clientHeight / ROW_HEIGHT) - 2);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -rows.length, End: rows.length };
    if (rows.length > 0 && event.key === "Enter" && active >= 0) {
      onSelect(rows[active]);
    } else if (rows.length > 0 && Object.hasOwn(step, event.key)) {
      moveTo(active + step[event.key]);
    } else {
      return;
    }
    event.preventDefault();
  });
  new ResizeObserver(draw).observe(element);

  return {
    element,
    setRows(given) {
      rows = given;
      body.style.height = `${rows.length * ROW_HEIGHT}px`;
      element.setAttribute("aria-rowcount", String(rows.length + 1));
      nothing.hidden = rows.length > 0;
      head.hidden = rows.length === 0;
      draw();
    },
    mark(which) {
      isMarked = which;
      draw();
    },
  };
}
