// Following a run: over one connection while it is under way, then by a short question now and then, since a run that
// is over may be resumed. A hidden page does neither. What fails is tried again, less and less often.

import { askJson, askWhyNot } from "./ask.js";
import { el, fill } from "./text.js";

const LOOK_MS = 3000;
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 8000;
// Where the run is there but cannot be read: each try reads all of it up to the fault.
const LONGEST_REREAD_MS = 60000;
// Where it never was: it may be one of a store that is put there yet, more likely it is a slip in the address.
const LONGEST_SEEK_MS = 60000;
const NOT_FOUND = 404;
const UNREADABLE = 422;

/**
 * What the page is told of its connection. `kind` is `live`; `over` (the run is, and it is looked whether it goes on);
 * `lost` (nobody answers) or `problem` (the store does not give the run), both of which are tried again after `waitMs`;
 * or `refused`, which is tried again when the page is shown anew.
 */
export class ConnectionState {
  constructor(kind, why = "", waitMs = 0) {
    this.kind = kind;
    this.why = why;
    this.waitMs = waitMs;
  }

  /** What a reader is told; nothing where all is well. */
  get sentence() {
    if (this.kind === "live" || this.kind === "over") {
      return "";
    }
    if (this.kind === "refused") {
      return this.why;
    }
    const again = this.waitMs < 2000 ? "Trying again." : `Trying again in ${Math.round(this.waitMs / 1000)} s.`;
    return this.kind === "lost" ? `Connection lost: ${this.why} ${again}` : `${ended(this.why)} ${again}`;
  }
}

/**
 * The line of a page that says what is wrong with its connection.
 * @returns {{element: HTMLElement, show: function(ConnectionState)}}
 */
export function createConnectionLine() {
  const element = el("p", { class: "connection", role: "status", "data-testid": "connection", hidden: true });
  return {
    element,
    show({ kind, sentence }) {
      element.hidden = sentence === "";
      element.className = `connection ${kind}`;
      if (element.textContent !== sentence) {
        fill(element, sentence);
      }
    },
  };
}

/**
 * Follow a run from its beginning, until what is returned is called.
 * @param {string} url of the run, among those of the server
 * @param {function(object)} onBatch
 * @param {function(ConnectionState)} onState
 * @returns {function()}
 */
export function followRun(url, onBatch, onState) {
  const follower = new Follower(url, onBatch, onState);
  follower.start();
  return () => follower.stop();
}

class Follower {
  #url;
  #onBatch;
  #onState;
  #events = null;
  #looking = null;
  #timer = 0;
  #wait = FIRST_RETRY_MS;
  // What was last told of the run: as long as the server says the same, nothing has been added to one that is over.
  #told = null;
  #isFirst = true;
  #isOver = false;
  // Whether it was not there when it was last asked for.
  #isAway = false;
  // Batches that are told again, or after a problem: what is on screen stays until all that there is has come.
  #held = null;

  constructor(url, onBatch, onState) {
    [this.#url, this.#onBatch, this.#onState] = [url, onBatch, onState];
  }

  start() {
    document.addEventListener("visibilitychange", this.#onVisibility);
    this.#onVisibility();
  }

  stop() {
    this.#leave();
    document.removeEventListener("visibilitychange", this.#onVisibility);
  }

  /** A hidden page has no connection: a browser keeps few at a time to one server, and the pages in view need them. */
  #onVisibility = () => {
    this.#leave();
    if (!document.hidden) {
      this.#goOn();
    }
  };

  #leave() {
    clearTimeout(this.#timer);
    this.#events?.close();
    this.#looking?.abort();
    this.#events = null;
    this.#looking = null;
  }

  #goOn = () => {
    this.#leave();
    if (this.#isOver || this.#isAway) {
      this.#look();
    } else {
      this.#connect();
    }
  };

  #connect() {
    const url = `${this.#url}/feed`;
    const mine = new EventSource(url);
    this.#events = mine;
    this.#held = this.#isFirst ? null : [];
    mine.onopen = () => {
      if (this.#held === null) {
        this.#say("live");
      }
    };
    mine.onmessage = (message) => this.#take(JSON.parse(message.data));
    mine.onerror = async () => {
      mine.close();
      const error = await askWhyNot(url);
      if (this.#events === mine) {
        this.#fail(error);
      }
    };
  }

  #take(batch) {
    this.#isFirst = false;
    if (batch.problem) {
      this.#retry("problem", batch.problem, LONGEST_REREAD_MS);
      return;
    }
    this.#told = batch.run === undefined ? this.#told : markOf(batch.run);
    if (this.#held === null) {
      this.#onBatch(batch);
    } else {
      this.#held.push(batch);
    }
    if (batch.end || batch.is_current) {
      this.#held?.forEach((held) => this.#onBatch(held));
      this.#held = null;
      this.#isOver = batch.end === true;
      this.#say(this.#isOver ? "over" : "live");
    }
    if (this.#isOver) {
      this.#leave();
      this.#later(LOOK_MS);
    }
  }

  /** Ask whether a run that was over is still as it was told, or one that was away is back; if so it is followed. */
  async #look() {
    const mine = new AbortController();
    this.#looking = mine;
    let state;
    try {
      state = await askJson(`${this.#url}/state`, mine.signal);
    } catch (error) {
      if (this.#looking === mine) {
        this.#fail(error);
      }
      return;
    }
    if (this.#looking !== mine) {
      return;
    }
    this.#isAway = false;
    this.#isOver = this.#isOver && markOf(state) === this.#told;
    if (this.#isOver) {
      this.#say("over");
      this.#later(LOOK_MS);
    } else {
      this.#goOn();
    }
  }

  #fail(error) {
    this.#isAway = error.status === NOT_FOUND;
    if (error.status === NOT_FOUND || error.status === UNREADABLE) {
      this.#retry("problem", error.message, this.#isAway && this.#isFirst ? LONGEST_SEEK_MS : LONGEST_RETRY_MS);
    } else if (error.status === null || error.status >= 500) {
      this.#retry("lost", error.message, LONGEST_RETRY_MS);
    } else {
      this.#leave();
      this.#onState(new ConnectionState("refused", error.message));
    }
  }

  #retry(kind, why, longest) {
    this.#leave();
    const wait = Math.min(this.#wait, longest);
    this.#wait = Math.min(2 * wait, longest);
    this.#later(wait);
    this.#onState(new ConnectionState(kind, why, wait));
  }

  #later(wait) {
    this.#timer = setTimeout(this.#goOn, wait);
  }

  #say(kind) {
    this.#wait = FIRST_RETRY_MS;
    this.#onState(new ConnectionState(kind));
  }
}

/** What differs once a run that was over goes on: another session of work, or another status. */
function markOf({ sessions, status }) {
  return `${sessions} ${status}`;
}

/** A text that ends as a sentence does. */
function ended(text) {
  return /[.?!]\s*$/.test(text) ? text : `${text}.`;
}
