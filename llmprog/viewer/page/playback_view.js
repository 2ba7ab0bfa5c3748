// Denoising, played back: which canvases were recorded, one of them step by step, and the order it was written in.

import { canvasLegend, createCanvasPicture, playerIcon } from "./playback_canvas.js";
import { Course } from "./playback_course.js";
import { createOrderPictures } from "./playback_order.js";
import { el, fill, formatDuration, formatPlural, formatShare } from "./text.js";
import { createVirtualTable } from "./virtual_table.js";

const SPEEDS = [1, 2, 5, 10, 25, 60];
const WHOLE_S = 6; // about how long a course takes at the speed it begins with
const AS_RECORDED = "recorded";
const LONGEST_WAIT_S = 3;

/**
 * The recorded denoisings of a search.
 * @param {{model: RunModel, path: string, load: function(number, number): Promise<object>}} options `load` gives the
 *   canvas of a question's sample
 * @returns {{element: HTMLElement, update: function(), show: function(number, number), setPath: function(string),
 *   destroy: function()}}
 */
export function createPlaybackView({ model, path, load }) {
  const player = createPlayer();
  const said = el("p", { class: "notice", role: "status", "data-testid": "playback-said", hidden: true });
  const about = el("p", { class: "playback-about", "data-testid": "playback-about" });
  const main = el("div", { class: "playback-main" }, about, said, player.element);
  const list = createVirtualTable({
    label: "Recorded canvases",
    testid: "canvases",
    empty: "No canvas was recorded.",
    columns: [
      { title: "written for", width: "minmax(0, 1fr)", cell: (canvas) => nodeOf(canvas) },
      { title: "call", width: "3.2rem", isNumber: true, cell: (canvas) => callOf(canvas)?.id ?? "" },
      { title: "sample", width: "3.6rem", isNumber: true, cell: (canvas) => canvas.sample },
      { title: "steps", width: "3.2rem", isNumber: true, cell: (canvas) => Math.max(0, canvas.num_steps - 1) },
    ],
    signature: (canvas) => `${callOf(canvas)?.id} ${canvas.num_steps}`,
    onSelect: (canvas) => view.show(canvas.question, canvas.sample),
  });
  const element = el("div", { class: "playback", "data-testid": "playback" }, el("div", { class: "playback-list" }, list.element), main);
  let chosen = null;
  let numAsked = 0;

  const callOf = (canvas) =>
    model
      .callsWith(path, canvas.question)
      .find((call) => call.first_sample <= canvas.sample && canvas.sample < call.first_sample + call.num_samples);
  const nodeOf = (canvas) => callOf(canvas)?.node ?? `question ${canvas.question}`;
  const isChosen = (canvas) => chosen !== null && canvas.question === chosen.question && canvas.sample === chosen.sample;

  const tell = (sentence) => {
    said.hidden = sentence === "";
    fill(said, sentence);
  };
  const describe = (course) => {
    const took = course.secondsAt(course.last);
    const call = callOf(chosen);
    fill(
      about,
      el("b", {}, nodeOf(chosen)),
      el("span", { class: "quiet" }, call && `call ${call.id}`),
      el("span", { class: "quiet" }, `sample ${chosen.sample}`),
      el("span", { class: "quiet" }, `${formatPlural(course.last, "step")}${took ? ` in ${formatDuration(took)}` : ""}`),
    );
  };
  const open = async (canvas) => {
    chosen = canvas;
    numAsked += 1;
    const asked = numAsked;
    list.mark(isChosen);
    player.stop();
    try {
      const loaded = await load(canvas.question, canvas.sample);
      if (asked !== numAsked) {
        return;
      }
      const course = new Course(loaded.steps);
      tell(course.last < 0 ? "Of this canvas no step was recorded." : "");
      describe(course);
      player.open(course);
    } catch (error) {
      if (asked === numAsked) {
        tell(`This canvas cannot be shown: ${error.message}`);
        player.close();
      }
    }
  };

  const view = {
    element,
    update() {
      const canvases = model.canvases(path);
      list.setRows(canvases);
      if (chosen === null && canvases.length > 0) {
        open(canvases[0]);
      }
    },
    show(question, sample) {
      open({ question, sample });
    },
    setPath(given) {
      path = given;
      chosen = null;
      numAsked += 1;
      fill(about);
      player.close();
      view.update();
    },
    destroy() {
      numAsked += 1;
      player.stop();
      element.remove();
    },
  };
  return view;
}

/** Shows a course step by step. */
function createPlayer() {
  const picture = createCanvasPicture();
  const order = createOrderPictures((step) => goTo(step));
  const legend = canvasLegend();
  const button = (name, label, click) =>
    el("button", { "aria-label": label, title: label, "data-testid": `playback-${name}`, click }, playerIcon(name));
  const play = button("play", "Play", () => (timer === null ? start() : stop()));
  const scrubber = el("input", {
    type: "range",
    min: "0",
    step: "1",
    "aria-label": "Step",
    "data-testid": "playback-scrubber",
    input: () => goTo(Number(scrubber.value)),
  });
  const where = el("output", { class: "playback-where", "data-testid": "playback-where" });
  const speed = el(
    "select",
    { "aria-label": "Speed", "data-testid": "playback-speed" },
    SPEEDS.map((each) => el("option", { value: String(each) }, `${formatPlural(each, "step")} / s`)),
    el("option", { value: AS_RECORDED }, "as recorded"),
  );
  const element = el(
    "div",
    { class: "playback-player", tabindex: "0", role: "group", "aria-label": "Player", hidden: true, keydown: (event) => onKey(event) },
    el(
      "div",
      { class: "playback-tools" },
      el(
        "div",
        { class: "graph-zoom" },
        button("first", "To the beginning (Home)", () => goTo(0)),
        button("back", "One step back (←)", () => goTo(index - 1)),
        play,
        button("on", "One step on (→)", () => goTo(index + 1)),
        button("last", "To the end (End)", () => goTo(course.last)),
      ),
      scrubber,
      speed,
    ),
    where,
    picture.element,
    legend,
    order.element,
  );
  let course = null;
  let index = 0;
  let timer = null;

  const draw = () => {
    scrubber.value = String(index);
    fill(where, sentenceOf(course, index));
    picture.show(course, index);
    order.mark(index);
  };
  const goTo = (step) => {
    stop();
    index = Math.max(0, Math.min(course.last, step));
    draw();
  };
  const wait = () => {
    const recorded = course.secondsAt(index + 1) - course.secondsAt(index);
    const seconds = speed.value === AS_RECORDED ? Math.min(recorded, LONGEST_WAIT_S) : 1 / Number(speed.value);
    timer = setTimeout(advance, 1000 * seconds);
  };
  const advance = () => {
    if (!element.isConnected) {
      stop(); // another view is shown
      return;
    }
    index += 1;
    draw();
    if (index < course.last) {
      wait();
    } else {
      stop();
    }
  };
  const start = () => {
    if (course.last < 1) {
      return;
    }
    if (index >= course.last) {
      index = 0;
      draw();
    }
    showState("pause", "Pause (space)");
    wait();
  };
  const stop = () => {
    clearTimeout(timer);
    timer = null;
    showState("play", "Play (space)");
  };
  const showState = (icon, label) => {
    fill(play, playerIcon(icon));
    play.title = label;
    play.setAttribute("aria-label", label);
  };
  const onKey = (event) => {
    const isOwn = event.target.matches("select") || (event.target === scrubber && event.key !== " ");
    if (isOwn || event.altKey || event.ctrlKey || event.metaKey) {
      return;
    }
    const steps = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: course.last };
    if (Object.hasOwn(steps, event.key)) {
      goTo(steps[event.key]);
    } else if (event.key === " " && !event.target.matches("button")) {
      play.click();
    } else {
      return;
    }
    event.preventDefault();
  };

  return {
    element,
    stop,
    /** Show a course from its beginning; where motion is not wanted, its end. */
    open(given) {
      stop();
      course = given;
      element.hidden = course.last < 0;
      if (element.hidden) {
        return;
      }
      scrubber.max = String(course.last);
      speed.value = String(SPEEDS.find((each) => each * WHOLE_S >= course.last) ?? SPEEDS.at(-1));
      order.show(course);
      legend.hidden = !course.hasTokens;
      const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
      index = isStill ? course.last : 0;
      draw();
      if (!isStill) {
        start();
      }
    },
    close() {
      stop();
      element.hidden = true;
    },
  };
}

function sentenceOf(course, index) {
  const at = course.secondsAt(index);
  const parts = [`step ${index} of ${course.last}`];
  if (at !== null && index > 0) {
    parts.push(`after ${formatDuration(at)}`);
  }
  if (course.hasTokens) {
    const { numWritten, numTokens, mean } = course.progress(index);
    parts.push(`${numWritten} of ${formatPlural(numTokens, "token")} written`);
    if (mean !== null) {
      parts.push(`mean probability ${formatShare(mean)}`);
    }
  }
  return parts.join(" · ");
}
