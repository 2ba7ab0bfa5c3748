// The calls of a run in time: what ran beside what, what was tried again, and what the run's time went into.

import { TIMELINE_TOP, drawTimeline, laneHeight, readTimelineTheme } from "./timeline_draw.js";
import { Timeline } from "./timeline_layout.js";
import { listenToGraph } from "./graph_input.js";
import { Pixels } from "./timeline_pixels.js";
import { rankOf } from "./timeline_bars.js";
import { el, fill, formatCount, formatDuration, formatPlural, formatShare, shorten } from "./text.js";

const MARGIN_PX = 12;
const HIT_PX = 5;
const SHORTEST_VIEW_S = 0.002;
// Laying out anew takes at most one part in this many of the time, however fast calls come.
const SHARE_OF_TIME = 5;

/**
 * The timeline of a run's calls.
 * @param {{model: object, onSelectCall: (id: number|null) => void}} options
 * @returns {{element: HTMLElement, update: () => void, select: (id: number|null) => void, destroy: () => void}}
 */
export function createTimelineView({ model, onSelectCall }) {
  const view = new TimelineView(model, onSelectCall);
  return {
    element: view.element,
    update: () => view.update(),
    select: (id) => view.select(id),
    destroy: () => view.destroy(),
  };
}

class TimelineView {
  #model;
  #onSelectCall;
  #timeline;
  #theme = null;
  #pixels = new Pixels();
  #view = { from: 0, perSecond: 1, scroll: 0, lane: 20, width: 1, height: 1, top: TIMELINE_TOP };
  #focus = { selected: null, hovered: null };
  #isFollowing = true;
  #frame = 0;
  #timer = 0;
  #notBefore = 0;
  #canvas = el("canvas", {
    class: "timeline-canvas",
    tabindex: "0",
    role: "application",
    "data-testid": "timeline-canvas",
    "aria-label": "Timeline of calls. Left and right go to the call sent before and after; plus, minus and 0 zoom.",
  });
  // Of a run that was resumed: beside a pause of hours, what was done in seconds is too narrow to be hit.
  #sessions = el("select", {
    "aria-label": "Go to a session",
    "data-testid": "timeline-sessions",
    hidden: true,
    change: () => this.#goToSession(Number(this.#sessions.value)),
  });
  #facts = el("dl", { class: "timeline-facts", "data-testid": "timeline-facts" });
  #legend = el("ul", { class: "graph-legend", "data-testid": "timeline-legend", "aria-label": "Colours and marks" });
  #said = el("p", { class: "graph-said", role: "status", "aria-live": "polite", "data-testid": "timeline-said" });
  #tip = el("div", { class: "graph-tip", "data-testid": "timeline-tip" });
  #stage;
  #observer;
  #scheme = matchMedia("(prefers-color-scheme: dark)");

  constructor(model, onSelectCall) {
    [this.#model, this.#onSelectCall] = [model, onSelectCall];
    this.#timeline = new Timeline(model);
    this.#tip.hidden = true;
    this.#stage = el("div", { class: "timeline-stage" }, this.#canvas, this.#tip);
    const button = (label, name, testid, click) =>
      el("button", { type: "button", "aria-label": name, title: name, "data-testid": testid, click }, label);
    const zoom = (factor) => this.#zoom(factor, this.#view.width / 2);
    const tools = el(
      "div",
      { class: "graph-tools", role: "toolbar", "aria-label": "Timeline" },
      el(
        "div",
        { class: "graph-zoom" },
        button("−", "Zoom out", "timeline-zoom-out", () => zoom(1 / 1.6)),
        button("+", "Zoom in", "timeline-zoom-in", () => zoom(1.6)),
        button("Fit", "Show the whole run", "timeline-fit", () => this.#fit()),
      ),
      this.#sessions,
      this.#facts,
    );
    this.element = el("section", { class: "timeline", "aria-label": "Timeline of calls" });
    this.element.append(tools, this.#stage, this.#legend, this.#said);
    listenToGraph(this.#canvas, {
      pan: (dx, dy) => this.#pan(dx, dy),
      zoom: (factor, x) => this.#zoom(factor, x),
      click: (x, y) => this.#choose(this.#at(x, y)?.id ?? null),
      doubleClick: (x) => this.#zoom(2.5, x),
      hover: (x, y) => this.#hover(x, y),
      key: (key) => this.#press(key),
    });
    this.#observer = new ResizeObserver(() => this.#resize());
    this.#observer.observe(this.#stage);
    this.#scheme.addEventListener("change", this.#onScheme);
    this.update();
  }

  /** Take in what is new in the model. */
  update() {
    if (this.#timer !== 0) {
      return;
    }
    const wait = this.#notBefore - performance.now();
    if (wait > 0) {
      this.#timer = setTimeout(() => {
        this.#timer = 0;
        this.update();
      }, wait);
      return;
    }
    const begun = performance.now();
    this.#timeline.take();
    this.#view.lane = laneHeight(this.#timeline.lanes.count, this.#room());
    if (this.#isFollowing) {
      this.#show(0, this.#timeline.wallS);
    }
    this.#showFacts();
    this.#showSessions();
    this.#showLegend();
    this.#notBefore = performance.now() + (performance.now() - begun) * (SHARE_OF_TIME - 1);
    this.#draw();
  }

  /** Select a call as the page asks for it, and bring it into view; `null` selects none. */
  select(id) {
    this.#focus.selected = id;
    const bar = this.#timeline.bar(id);
    if (bar !== undefined) {
      this.#reveal(bar);
    }
    this.#say(bar);
    this.#draw();
  }

  destroy() {
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#timer);
    this.#observer.disconnect();
    this.#scheme.removeEventListener("change", this.#onScheme);
  }

  #onScheme = () => {
    this.#theme = null;
    this.#draw();
  };

  #room() {
    return this.#view.height - TIMELINE_TOP - MARGIN_PX;
  }

  #resize() {
    const { clientWidth, clientHeight } = this.#stage;
    if (clientWidth === 0 || clientHeight === 0) {
      return;
    }
    const view = this.#view;
    view.perSecond *= clientWidth / view.width;
    [view.width, view.height] = [clientWidth, clientHeight];
    view.lane = laneHeight(this.#timeline.lanes.count, this.#room());
    if (this.#isFollowing) {
      this.#show(0, this.#timeline.wallS);
    }
    this.#clamp();
    // At once: a canvas that waits for the next frame would be seen stretched.
    this.#drawNow();
  }

  #draw() {
    if (this.#frame === 0) {
      this.#frame = requestAnimationFrame(() => {
        this.#frame = 0;
        this.#drawNow();
      });
    }
  }

  #drawNow() {
    const view = this.#view;
    if (!this.#canvas.isConnected || view.width <= 1) {
      return;
    }
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(view.width * ratio), Math.round(view.height * ratio)];
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      [this.#canvas.width, this.#canvas.height] = [width, height];
    }
    this.#theme ??= readTimelineTheme(this.#canvas);
    drawTimeline(this.#canvas, this.#pixels, this.#timeline, view, this.#theme, this.#focus);
    this.#canvas.dataset.drawn = String(this.#timeline.bars.length);
  }

  #show(from, to) {
    const view = this.#view;
    view.perSecond = Math.max(1, view.width - 2 * MARGIN_PX) / Math.max(to - from, SHORTEST_VIEW_S);
    view.from = from - MARGIN_PX / view.perSecond;
  }

  #fit() {
    this.#isFollowing = true;
    this.#view.scroll = 0;
    this.#show(0, this.#timeline.wallS);
    this.#draw();
  }

  /** The times between pauses. */
  #workTimes() {
    const { times, wallS } = this.#timeline;
    const starts = [0, ...times.pauses.map((pause) => pause.end)];
    const ends = [...times.pauses.map((pause) => pause.start), wallS];
    return starts.map((start, index) => ({ start, end: ends[index] }));
  }

  #showSessions() {
    const sessions = this.#workTimes();
    this.#sessions.hidden = sessions.length < 2;
    if (this.#sessions.children.length !== sessions.length + 1) {
      const names = sessions.map(({ start }, index) => `Session ${index + 1}, after ${formatDuration(start)}`);
      const options = names.map((name, index) => el("option", { value: String(index) }, name));
      fill(this.#sessions, el("option", { value: "" }, "Go to…"), options);
    }
  }

  #goToSession(index) {
    const { start, end } = this.#workTimes()[index];
    this.#isFollowing = false;
    this.#show(start, end);
    this.#clamp();
    this.#draw();
    this.#sessions.value = "";
  }

  /** Keep the run in sight: neither zoomed out beyond it nor moved away from it. */
  #clamp() {
    const view = this.#view;
    const { wallS, lanes } = this.#timeline;
    const least = Math.max(1, view.width - 2 * MARGIN_PX) / Math.max(wallS, SHORTEST_VIEW_S);
    view.perSecond = Math.min(Math.max(view.perSecond, least), view.width / SHORTEST_VIEW_S);
    const margin = MARGIN_PX / view.perSecond;
    view.from = Math.max(-margin, Math.min(view.from, wallS + margin - view.width / view.perSecond));
    view.scroll = Math.max(0, Math.min(view.scroll, lanes.count * view.lane - this.#room()));
  }

  #zoom(factor, x) {
    const view = this.#view;
    this.#isFollowing = false;
    const moment = view.from + x / view.perSecond;
    view.perSecond *= factor;
    this.#clamp();
    view.from = moment - x / view.perSecond;
    this.#clamp();
    this.#hover(null, null);
    this.#draw();
  }

  #pan(dx, dy) {
    const view = this.#view;
    const { from, scroll } = view;
    this.#isFollowing = false;
    view.from -= dx / view.perSecond;
    view.scroll -= dy;
    this.#clamp();
    if (view.from !== from || view.scroll !== scroll) {
      this.#draw();
    }
  }

  #reveal(bar) {
    const view = this.#view;
    const span = view.width / view.perSecond;
    if (bar.end < view.from || bar.start > view.from + span) {
      this.#isFollowing = false;
      view.from = (bar.start + bar.end - span) / 2;
    }
    const top = bar.lane * view.lane;
    view.scroll = Math.min(Math.max(view.scroll, top + view.lane - this.#room()), top);
    this.#clamp();
  }

  #at(x, y) {
    const view = this.#view;
    const lane = Math.floor((y - TIMELINE_TOP + view.scroll) / view.lane);
    const moment = view.from + x / view.perSecond;
    const perPixel = 1 / view.perSecond;
    return y < TIMELINE_TOP ? null : this.#timeline.lanes.at(lane, moment, HIT_PX * perPixel, perPixel, rankOf);
  }

  #hover(x, y) {
    const bar = x === null ? null : this.#at(x, y);
    if (bar !== null) {
      fill(this.#tip, describeBar(bar).map((line) => el("div", {}, line)));
      this.#tip.style.left = `${Math.min(x + 14, Math.max(0, this.#view.width - 300))}px`;
      this.#tip.style.top = `${y > this.#view.height * 0.65 ? y - 92 : y + 16}px`;
    }
    this.#tip.hidden = bar === null;
    this.#canvas.classList.toggle("is-over", bar !== null);
    const id = bar?.id ?? null;
    if (id !== this.#focus.hovered) {
      this.#focus.hovered = id;
      this.#draw();
    }
  }

  #choose(id) {
    this.select(id);
    this.#onSelectCall(id);
  }

  #press(key) {
    const middle = this.#view.width / 2;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (step !== undefined) {
      const next = this.#timeline.neighbour(this.#focus.selected, step);
      if (next !== undefined) {
        this.#choose(next.id);
      }
    } else if (key === "+" || key === "=") {
      this.#zoom(1.6, middle);
    } else if (key === "-") {
      this.#zoom(1 / 1.6, middle);
    } else if (key === "0") {
      this.#fit();
    } else if (key === "Escape") {
      this.#choose(null);
    } else {
      return false;
    }
    return true;
  }

  #showFacts() {
    const { bars, concurrency, numAttempts, numRateLimits, numTakenOver, path, times, wallS } = this.#timeline;
    const pausedS = wallS - times.workS;
    const numSamples = bars.reduce((sum, { call }) => sum + call.num_samples, 0);
    const samples = numSamples > bars.length ? ` for ${formatPlural(numSamples, "sample")}` : "";
    const facts = [
      ["Time", formatDuration(times.workS) + (pausedS > 0 ? `, and paused for ${formatDuration(pausedS)}` : "")],
      ["Calls", `${formatCount(bars.length)}${samples}, up to ${formatCount(concurrency.most)} at a time`],
      [
        "Critical path",
        `${formatPlural(path.spans.length, "call")}, ${formatDuration(times.callsS)}` +
          (times.workS > 0 ? ` (${formatShare(times.callsS / times.workS)} of the time)` : "") +
          `, waiting ${formatDuration(times.waitingS)}`,
      ],
    ];
    if (numTakenOver > 0) {
      const source = this.#model.run?.forked_from ?? "another run";
      facts.push(["Taken over", `${formatPlural(numTakenOver, "call")} of ${source}, not shown here`]);
    }
    if (numAttempts > 0) {
      const numOthers = numAttempts - numRateLimits;
      const after = [
        numOthers > 0 && formatPlural(numOthers, "failure"),
        numRateLimits > 0 && formatPlural(numRateLimits, "rate limit"),
      ];
      facts.push(["Tried again after", after.filter(Boolean).join(", ")]);
    }
    fill(
      this.#facts,
      facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    );
  }

  #showLegend() {
    const timeline = this.#timeline;
    const item = (kind, color, label) => {
      const patch = el("span", { class: `graph-patch ${kind}` });
      patch.style.setProperty("--patch", `var(--${color})`);
      return el("li", {}, patch, label);
    };
    fill(
      this.#legend,
      [...timeline.nodes].map(([node, color]) => item("", `series-${color}`, node)),
      item("is-framed", "ink", "on the critical path"),
      timeline.has("failed") && item("is-hatched", "invalid", "failed"),
      timeline.has("recalled") && item("is-hollow", "quiet", "from a cache"),
      timeline.has("running") && item("is-faint", "quiet", "under way"),
      timeline.has("cut off") && item("is-hatched", "quiet", "cut off"),
      timeline.numRateLimits > 0 && item("is-thin", "rate-limit", "rate limit, tried again"),
      timeline.numAttempts > timeline.numRateLimits && item("is-thin", "invalid", "failed, tried again"),
    );
  }

  #say(bar) {
    fill(this.#said, bar === undefined ? null : describeBar(bar).join("; "));
  }
}

/** A call in a few lines of words. */
function describeBar({ call, kind, start, end }) {
  const asked = call.num_samples > 0 ? formatPlural(call.num_samples, "sample") : "likelihoods";
  const tokens = call.outcome?.usage?.completion_tokens;
  const lines = [
    `Call ${call.id}: ${call.node}, ${asked}`,
    `${kind}, sent at ${formatDuration(start)}, took ${formatDuration(end - start)}` +
      (typeof tokens === "number" ? `, ${formatPlural(tokens, "token")}` : ""),
  ];
  if (call.attempts.length > 0) {
    const last = call.attempts.at(-1);
    lines.push(`${formatPlural(call.attempts.length, "failed attempt")}; the last: ${shorten(last.error ?? "", 120)}`);
  }
  if (typeof call.outcome?.error === "string") {
    lines.push(shorten(call.outcome.error, 200));
  }
  return lines;
}
