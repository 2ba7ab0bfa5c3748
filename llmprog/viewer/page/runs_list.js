// The runs of the store: searched and filtered, two of them to compare, what is under way kept up to date.

import { outcomeOf, runStatus } from "./run_header.js";
import { el, fill, shorten } from "./text.js";
import { formatCount, formatDuration, formatMoment, formatPlural, formatUsd, formatValue } from "./text.js";

const PAGE = 100;
const TYPING_MS = 200;
const LIVE_MS = 2000;
const QUIET_MS = 10000;
const STATUSES = ["running", "interrupted", "finished", "stopped", "failed", "unreadable"];
const COLUMNS = ["box", "program", "input", "answer", "status", "began", "took", "calls", "cost"];
const NUMBERS = new Set(["took", "calls", "cost"]);

/**
 * The page of the runs of the store.
 * @param {object} options
 * @param {LiveSource} options.source
 * @param {URLSearchParams} options.params `query`, `status`, `program`
 * @param {function(object)} options.onPlace called with the params of the place that is shown
 * @returns {{element: HTMLElement, goTo: function(URLSearchParams), destroy: function()}}
 */
export function createRunsList({ source, params, onPlace }) {
  const asked = { query: "", status: "", program: "" };
  const chosen = new Set();
  const programs = new Set();
  let limit = PAGE;
  let timer = 0;
  let latest = 0;
  let rows = new Map();

  const search = el("input", {
    type: "search",
    placeholder: "Search program, input, answer, id",
    "aria-label": "Search runs",
    "data-testid": "runs-search",
    input: () => ask({ query: search.value }, TYPING_MS),
  });
  const status = el(
    "select",
    { "aria-label": "Status", "data-testid": "runs-status", change: () => ask({ status: status.value }) },
    el("option", { value: "" }, "any status"),
    STATUSES.map((name) => el("option", { value: name }, name)),
  );
  const program = el("select", {
    "aria-label": "Program",
    "data-testid": "runs-program",
    change: () => ask({ program: program.value }),
  });
  const compare = el("a", { class: "button", "data-testid": "compare", hidden: true }, "Compare the two");
  const count = el("p", { class: "quiet", role: "status", "data-testid": "runs-count" });
  const body = el("tbody");
  const table = el(
    "table",
    { class: "runs", "data-testid": "runs", hidden: true },
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        COLUMNS.map((name) => el("th", { scope: "col", class: NUMBERS.has(name) && "number" }, name !== "box" && name)),
      ),
    ),
    body,
  );
  const more = el("button", { "data-testid": "runs-more", hidden: true, click: showMore }, "Show more");
  const notice = el("div", { "data-testid": "runs-notice" });
  const element = el(
    "section",
    { class: "runs-page" },
    el("div", { class: "runs-bar" }, el("h1", {}, "Runs"), search, status, program, compare, count),
    notice,
    table,
    more,
  );

  function showMore() {
    limit += PAGE;
    load();
  }

  function ask(change, wait = 0) {
    Object.assign(asked, change);
    limit = PAGE;
    clearTimeout(timer);
    timer = setTimeout(() => {
      onPlace(asked);
      load();
    }, wait);
  }

  async function load() {
    clearTimeout(timer);
    latest += 1;
    const mine = latest;
    let wait = QUIET_MS;
    try {
      const found = await source.runs({ ...asked, limit });
      if (mine !== latest) {
        return;
      }
      show(found);
      wait = found.runs.some((run) => run.status === "running") ? LIVE_MS : QUIET_MS;
    } catch (error) {
      if (mine !== latest) {
        return;
      }
      fill(notice, el("div", { class: "notice fault" }, el("p", {}, error.message)));
      wait = LIVE_MS;
    }
    timer = setTimeout(loadInView, wait);
  }

  /** Nobody looks at a hidden page: what is new there waits until it is shown. */
  function loadInView() {
    if (!document.hidden) {
      load();
    }
  }

  function show(found) {
    const isAll = !asked.query && !asked.status && !asked.program;
    fill(
      notice,
      found.runs.length === 0 && (isAll ? noRuns(found.store) : el("p", { class: "notice" }, "No run fits.")),
    );
    table.hidden = found.runs.length === 0;
    more.hidden = found.runs.length >= found.total;
    const shown = found.runs.length < found.total ? `${formatCount(found.runs.length)} of ` : "";
    fill(count, `${shown}${formatPlural(found.total, "run")} in `, el("code", {}, found.store));
    showPrograms(found);
    const next = new Map();
    for (const run of found.runs) {
      const sign = JSON.stringify(run);
      const known = rows.get(run.id);
      next.set(run.id, known?.sign === sign ? known : { sign, element: runRow(run) });
    }
    rows = next;
    const wanted = [...next.values()].map((row) => row.element);
    if (wanted.length !== body.children.length || wanted.some((row, i) => row !== body.children[i])) {
      const focused = document.activeElement?.dataset?.run;
      body.replaceChildren(...wanted);
      body.querySelector(`[data-run="${CSS.escape(focused ?? "")}"]`)?.focus();
    }
  }

  function showPrograms(found) {
    const names = [...(found.programs ?? found.runs.map((run) => run.program)), asked.program].filter(Boolean);
    const isKnown = names.every((name) => programs.has(name)) && program.children.length > 0;
    names.forEach((name) => programs.add(name));
    if (!isKnown) {
      const sorted = [...programs].sort();
      fill(
        program,
        el("option", { value: "" }, "any program"),
        sorted.map((name) => el("option", { value: name }, shorten(name, 50))),
      );
      program.value = asked.program;
    }
  }

  function choose(id, isChosen) {
    if (isChosen) {
      chosen.add(id);
    } else {
      chosen.delete(id);
    }
    const [first, second] = chosen;
    compare.hidden = chosen.size !== 2;
    if (chosen.size === 2) {
      compare.setAttribute("href", `#/compare/${encodeURIComponent(first)}/${encodeURIComponent(second)}`);
    }
    for (const box of body.querySelectorAll("input[type=checkbox]")) {
      box.disabled = chosen.size >= 2 && !box.checked;
    }
  }

  function runRow(run) {
    const isReadable = run.status !== "unreadable";
    const box = el("input", {
      type: "checkbox",
      "aria-label": `Compare run ${run.id}`,
      change: () => choose(run.id, box.checked),
    });
    box.checked = chosen.has(run.id);
    box.disabled = chosen.size >= 2 && !box.checked;
    const name = shorten(run.program || run.id, 60);
    const input = shorten(formatValue(run.input), 90);
    const cells = {
      box: isReadable && box,
      program: [
        isReadable ? el("a", { href: `#/run/${encodeURIComponent(run.id)}`, "data-run": run.id }, name) : run.id,
        run.kind === "map" && el("span", { class: "quiet" }, " job"),
      ],
      input: el("span", { title: input }, input),
      answer: answerCell(run),
      status: runStatus(run.status),
      began: run.began_at ? el("span", { class: "quiet" }, formatMoment(run.began_at)) : "",
      took: isReadable && formatDuration(run.elapsed_s),
      calls: isReadable && formatCount(run.usage?.calls ?? 0),
      cost: isReadable && formatUsd(run.usage?.usd),
    };
    const kind = (of) => (NUMBERS.has(of) ? "number" : of === "input" || of === "answer" ? "mono clip" : null);
    return el(
      "tr",
      { "data-testid": "run-row", class: run.status },
      COLUMNS.map((of) => el("td", { "data-of": of, class: kind(of) }, cells[of])),
    );
  }

  return {
    element,
    goTo(given) {
      asked.query = given.get("query") ?? "";
      asked.status = STATUSES.includes(given.get("status")) ? given.get("status") : "";
      asked.program = given.get("program") ?? "";
      search.value = asked.query;
      status.value = asked.status;
      program.value = asked.program;
      load();
    },
    start() {
      document.title = "Runs · llmprog";
      document.addEventListener("visibilitychange", loadInView);
      this.goTo(params);
      return this;
    },
    destroy() {
      latest += 1;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", loadInView);
    },
  };
}

function answerCell(run) {
  if (run.problem) {
    return el("span", { class: "fault" }, shorten(run.problem, 160));
  }
  if (run.error) {
    return el("span", { class: "fault", title: run.error }, shorten(run.error, 160));
  }
  const result = run.job ?? { answer: run.answer, solved: run.solved, stopped: "" };
  const { text, isSolved } = outcomeOf({ ...run, result });
  return text && el("span", { class: isSolved ? "solved" : "quiet", title: text }, shorten(text, 90));
}

function noRuns(store) {
  return el(
    "div",
    { class: "notice" },
    el("h2", {}, "No runs yet"),
    el("p", {}, "Nothing is kept in ", el("code", {}, store), ". A run is kept when the command line makes one:"),
    el("pre", {}, 'llmprog run game24 "4 9 10 13"'),
    el(
      "p",
      {},
      "or Python does, with ",
      el("code", {}, 'program.run(…, store="runs")'),
      ". It appears here by itself.",
    ),
  );
}
