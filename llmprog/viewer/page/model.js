// A run as the page holds it: batches go in, searches, thoughts and calls come out.

import { toNumber } from "./text.js";

const ANEW_MS = 400;

/**
 * A thought of a search. `parents` are those of the way it was first reached, `bestParents` those of the best way known;
 * `children` are the thoughts below it by their first parents, in the order in which they came.
 */
export class Thought {
  constructor(record, depth) {
    this.id = record.id;
    this.parents = record.parents;
    this.bestParents = record.parents;
    this.node = record.node;
    this.sample = record.sample;
    this.question = record.question;
    this.questions = record.questions ?? [];
    this.state = record.state;
    this.full = record.full ?? record.state;
    this.goal = record.goal;
    this.answer = record.answer;
    this.at = record.at;
    this.arrivals = [];
    this.verdicts = [];
    this.prunedReason = null;
    this.children = [];
    this.depth = depth;
  }

  /** `goal`, `invalid` (a checker refused it), `pruned` (the controller gave it up) or `open`. */
  get status() {
    if (this.goal) {
      return "goal";
    }
    if (this.verdicts.some((verdict) => !verdict.valid)) {
      return "invalid";
    }
    return this.prunedReason === null ? "open" : "pruned";
  }

  /** The sum of its checkers' scores; 0 where none was given. */
  get score() {
    return this.verdicts.reduce((sum, verdict) => sum + toNumber(verdict.score), 0);
  }
}

/** What one search found: of a plain run there is one, of a job one for each row, and those of programs within it. */
export class Search {
  constructor(path, hasGoal) {
    this.path = path;
    this.hasGoal = hasGoal;
    this.thoughts = [];
    this.votes = [];
    this.finished = null;
    this.solution = new Set();
    this.revision = 0;
  }

  /** Whether it ended with a goal, or, where the program has none, with an answer. */
  get isSolved() {
    const last = this.thoughts[this.finished?.thought ?? -1];
    return last !== undefined && (this.hasGoal ? last.goal : last.answer !== null);
  }

  /** Take in a new thought. */
  add(record) {
    const parent = this.thoughts[record.parents[0] ?? -1];
    const thought = new Thought(record, parent === undefined ? 0 : parent.depth + 1);
    this.thoughts[thought.id] = thought;
    parent?.children.push(thought.id);
    this.revision += 1;
  }

  /** Change a thought that is known. */
  change(id, how) {
    const thought = this.thoughts[id];
    if (thought !== undefined) {
      how(thought);
      this.revision += 1;
    }
  }

  /** Say how the search ended; its solution's path goes back by the best way to each thought, and its first parent. */
  finish(finished) {
    this.finished = finished;
    this.solution = new Set();
    for (let id = finished.thought; id !== null && id !== undefined && !this.solution.has(id);) {
      this.solution.add(id);
      id = this.thoughts[id]?.bestParents[0];
    }
    this.revision += 1;
  }
}

/** A run under way or over, fed batch by batch. */
export class RunModel {
  #searches = new Map();
  #canvases = new Map();
  #byQuestion = new Map();
  #listeners = new Set();
  #isNotifying = false;
  #isAnew = false;
  #order = null;

  constructor() {
    this.run = null;
    this.calls = new Map();
    this.rows = new Map();
    this.isOver = false;
  }

  /** The paths of the searches: "" of a plain run, the rows of a job by number, after each the programs within it. */
  paths() {
    this.#order ??= [...this.#searches.keys()].sort(comparePaths);
    return this.#order;
  }

  /** The search at `path`, or undefined. */
  search(path) {
    return this.#searches.get(path);
  }

  /** The recorded denoisings of a search: `{question, sample, num_steps}` each. */
  canvases(path) {
    return [...(this.#canvases.get(path)?.values() ?? [])];
  }

  /** The recorded denoising of a sample, or undefined. */
  canvas(path, question, sample) {
    return this.#canvases.get(path)?.get(`${question} ${sample}`);
  }

  /** The call that a thought was parsed from, or null. */
  callOf(path, thought) {
    return thought.question === null ? null : this.#callWith(path, thought.question, thought.sample);
  }

  /** The call of a thought, the others that its generator made, then those that its verdicts rest on. */
  callsOf(path, thought) {
    const found = new Set();
    const own = this.callOf(path, thought);
    if (own !== null) {
      found.add(own);
    }
    const asked = [...thought.questions, ...thought.verdicts.flatMap((verdict) => verdict.questions)];
    for (const question of asked) {
      for (const call of this.callsWith(path, question)) {
        found.add(call);
      }
    }
    return [...found];
  }

  /** All calls that asked a question, in the order of sending. */
  callsWith(path, question) {
    return this.#byQuestion.get(questionKey(path, question)) ?? [];
  }

  /** Let `listener` know of changes, at most once in a frame; returns what ends that. */
  onChange(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Take in a batch. */
  apply(batch) {
    if (batch.begin) {
      this.#isAnew = this.run !== null;
      this.#clear();
    }
    this.run = batch.run ?? this.run;
    this.isOver = this.isOver || batch.end === true;
    for (const record of batch.searches ?? []) {
      this.#searches.set(record.path, new Search(record.path, record.has_goal));
      this.#order = null;
    }
    this.#takeCalls(batch);
    this.#takeThoughts(batch);
    for (const row of batch.rows ?? []) {
      this.rows.set(row.number, row);
    }
    for (const canvas of batch.canvases ?? []) {
      // A resumed search begins again, but what it recalls was not written again: its canvases stay.
      const known = this.#canvases.get(canvas.path) ?? new Map();
      this.#canvases.set(canvas.path, known.set(`${canvas.question} ${canvas.sample}`, canvas));
    }
    this.#notify();
  }

  #clear() {
    this.#searches.clear();
    this.#canvases.clear();
    this.#byQuestion.clear();
    this.#order = null;
    this.calls.clear();
    this.rows.clear();
    this.run = null;
    this.isOver = false;
  }

  #takeCalls(batch) {
    for (const record of batch.calls ?? []) {
      const call = { ...record, outcome: null, attempts: [] };
      this.calls.set(call.id, call);
      const key = questionKey(call.path, call.question);
      const known = this.#byQuestion.get(key);
      if (known === undefined) {
        this.#byQuestion.set(key, [call]);
      } else {
        known.push(call);
      }
    }
    for (const outcome of batch.outcomes ?? []) {
      const call = this.calls.get(outcome.call);
      if (call !== undefined) {
        call.outcome = outcome;
      }
    }
    for (const attempt of batch.attempts ?? []) {
      this.calls.get(attempt.call)?.attempts.push(attempt);
    }
  }

  #takeThoughts(batch) {
    for (const record of batch.thoughts ?? []) {
      this.#searches.get(record.path)?.add(record);
    }
    for (const arrival of batch.arrivals ?? []) {
      this.#change(arrival, (thought) => {
        thought.arrivals.push(arrival);
        thought.bestParents = arrival.is_best ? arrival.parents : thought.bestParents;
      });
    }
    for (const record of batch.verdicts ?? []) {
      this.#change(record, (thought) => {
        thought.verdicts = record.by;
      });
    }
    for (const record of batch.pruned ?? []) {
      this.#change(record, (thought) => {
        thought.prunedReason = record.reason;
      });
    }
    for (const vote of batch.votes ?? []) {
      const search = this.#searches.get(vote.path);
      if (search !== undefined) {
        search.votes.push(vote);
        search.revision += 1;
      }
    }
    for (const record of batch.finished ?? []) {
      this.#searches.get(record.path)?.finish({ stopped: record.stopped, thought: record.thought });
    }
  }

  #change(record, how) {
    this.#searches.get(record.path)?.change(record.id, how);
  }

  /** Of the calls that asked for a sample, the one that was answered, else the last: a resumed run asks again. */
  #callWith(path, question, sample) {
    const asked = this.callsWith(path, question).filter(
      (call) => call.first_sample <= sample && sample < call.first_sample + call.num_samples,
    );
    return asked.find((call) => call.outcome?.state === "settled") ?? asked.at(-1) ?? null;
  }

  #notify() {
    if (this.#isNotifying) {
      return;
    }
    this.#isNotifying = true;
    const tell = () => {
      this.#isNotifying = false;
      for (const listener of [...this.#listeners]) {
        listener();
      }
    };
    if (this.#isAnew) {
      // A connection that came back begins at the beginning: what is on screen stays until most of it is here again.
      this.#isAnew = false;
      setTimeout(tell, ANEW_MS);
    } else {
      requestAnimationFrame(tell);
    }
  }
}

/** Whether a call was made by the run that this one was forked from, and so has no time in this one. */
export function isTakenOver(call) {
  return call.outcome?.source === "fork";
}

/** What tells the questions of different searches apart: the same number in two paths is one question of two rows. */
function questionKey(path, question) {
  return `${question} ${path}`;
}

/** By the row's number, then by the programs within it. */
function comparePaths(one, other) {
  const [rowOfOne, rowOfOther] = [one.split("/", 1)[0], other.split("/", 1)[0]];
  if (rowOfOne !== rowOfOther) {
    return rowOfOne.length - rowOfOther.length || (rowOfOne < rowOfOther ? -1 : 1);
  }
  return one < other ? -1 : one === other ? 0 : 1;
}
