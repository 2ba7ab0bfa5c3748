// Building the page, and writing values as people read them. Every text from a run goes through here, as a text node.

const SVG = "http://www.w3.org/2000/svg";

// Control, format (bidirectional, zero width), surrogate and private characters, and the two separators that break lines.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/gu;
const INFINITIES = new Map([
  ["inf", Infinity],
  ["Infinity", Infinity],
  ["-inf", -Infinity],
  ["-Infinity", -Infinity],
]);
const PLAIN = /^[\x20-\x7e\n\t]*$/;

/**
 * Text that shows itself: characters that cannot be seen, or that change how others are seen, as escapes.
 * @param {string} text
 * @returns {string} with line breaks and tabs as they were
 */
export function visible(text) {
  if (PLAIN.test(text)) {
    return text;
  }
  return text.replaceAll("\r\n", "\n").replace(HIDDEN, (c) => {
    if (c === "\n" || c === "\t") {
      return c;
    }
    const code = c.codePointAt(0);
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16).padStart(4, "0")}}`;
  });
}

/**
 * An HTML element.
 * @param {string} tag
 * @param {object} [props] attributes; a function is a listener of the event of that name, `true` an attribute without
 *   a value, `null`, `undefined` and `false` none; `href` may only lead to another place of this page
 * @param {...(Node|string|number|null|undefined|false|Array)} children strings become text nodes that show themselves
 * @returns {HTMLElement}
 */
export function el(tag, props = {}, ...children) {
  return filled(document.createElement(tag), props, children);
}

/**
 * An SVG element, as `el` makes those of HTML.
 * @returns {SVGElement}
 */
export function svg(tag, props = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

/** Put `children` in place of all that `parent` holds, as `el` takes them. */
export function fill(parent, ...children) {
  parent.replaceChildren();
  append(parent, children);
  return parent;
}

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) {
      continue;
    }
    if (typeof value === "function") {
      element.addEventListener(name, value);
    } else if (name === "style" || name.startsWith("on")) {
      throw new Error(`attribute ${name}: not allowed; set element.style from code, and give listeners as functions`);
    } else if (name === "href" && !String(value).startsWith("#")) {
      throw new Error(`href ${value}: a link leads to a place of this page, and begins with #`);
    } else if (name === "value") {
      element.value = value;
    } else {
      element.setAttribute(name, value === true ? "" : visible(String(value)));
    }
  }
  append(element, children);
  return element;
}

function append(parent, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) {
      continue;
    }
    parent.append(child instanceof Node ? child : document.createTextNode(visible(String(child))));
  }
}

/**
 * A number as JSON has it, where infinities are texts.
 * @param {number|string|null} value
 * @returns {number} `NaN` for what is none
 */
export function toNumber(value) {
  if (typeof value === "number") {
    return value;
  }
  return INFINITIES.get(value) ?? NaN;
}

/** A whole number with its thousands apart: 12,345. */
export function formatCount(value) {
  return Math.round(value).toLocaleString("en-US");
}

/** A score or number of votes: at most four digits after the point that matter, infinities as ∞. */
export function formatScore(value) {
  const number = toNumber(value);
  if (!Number.isFinite(number)) {
    return Number.isNaN(number) ? "–" : number > 0 ? "∞" : "−∞";
  }
  const shown = Math.abs(number) >= 10000 ? formatCount(number) : String(Number(number.toPrecision(4)));
  return shown.replace("-", "−");
}

/** A share from 0 to 1 in percent: 12 %, 0.4 %. */
export function formatShare(value) {
  const percent = 100 * value;
  if (percent > 99 && percent < 100) {
    return `${Math.floor(percent * 10) / 10} %`;
  }
  return `${percent > 0 && percent < 1 ? Number(percent.toPrecision(1)) : Math.round(percent)} %`;
}

/** A span of time: 85 ms, 2.4 s, 3 min 5 s, 1 h 20 min. */
export function formatDuration(seconds) {
  if (seconds === null || seconds === undefined) {
    return "–";
  }
  if (seconds < 0.9995) {
    return `${Math.round(seconds * 1000)} ms`;
  }
  if (seconds < 59.95) {
    return `${seconds < 9.95 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  }
  const whole = Math.round(seconds);
  if (whole < 3600) {
    return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ""}`;
  }
  const minutes = Math.round(whole / 60);
  return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
}

/** Dollars, or "unknown" where the price is not known. */
export function formatUsd(usd) {
  if (usd === null || usd === undefined) {
    return "unknown";
  }
  return usd === 0 ? "$0" : `$${usd < 0.01 ? usd.toPrecision(2) : usd.toFixed(usd < 1 ? 4 : 2)}`;
}

/** A moment in the reader's time zone: 2026-11-22 16:04:05. */
export function formatMoment(secondsSince1970) {
  const moment = new Date(secondsSince1970 * 1000);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())}`;
  return `${day} ${two(moment.getHours())}:${two(moment.getMinutes())}:${two(moment.getSeconds())}`;
}

/** "1 call", "3 calls". */
export function formatPlural(count, one, many = `${one}s`) {
  return `${formatCount(count)} ${count === 1 ? one : many}`;
}

/** A JSON value as text: a string as it is, others as JSON, nothing for null. */
export function formatValue(value) {
  if (value === null || value === undefined) {
    return "";
  }
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** At most `length` characters of a text, on one line. */
export function shorten(text, length) {
  const line = text
    .slice(0, length * 4)
    .replace(/\s+/g, " ")
    .trim();
  return line.length > length || text.length > length * 4 ? `${line.slice(0, length - 1).trimEnd()}…` : line;
}
