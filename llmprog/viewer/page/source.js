// Where the page has its data from: the server of `llmprog view`, or the blocks within an exported file.
//
// In a file each block is a `<script type="application/gzip+base64">` with gzip'd JSON in base64:
//   data-batches            a list of batches; in the order of the document
//   data-calls="K"          the details of the calls whose number divided by 100 is K, as a list
//   data-canvas="Q/S/PATH"  the canvas of question Q, sample S, of the search at PATH

const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 8000;
const CALLS_PER_BLOCK = 100;
const KEPT_CALLS = 300;

/** What the page is told of its connection: `live`, `lost` (it tries again), `refused`, or `over`. */
class ConnectionState {
  constructor(kind, why = "") {
    this.kind = kind;
    this.why = why;
  }
}

/** Runs of a store, from the server that gave this page. */
export class LiveSource {
  isFile = false;

  /** A page of the runs list: `{total, store, runs}`. */
  runs({ query = "", status = "", program = "", offset = 0, limit = 100 } = {}) {
    const asked = new URLSearchParams({ query, status, program, offset: String(offset), limit: String(limit) });
    return fetchJson(`api/runs?${asked}`);
  }

  /** The details of a call. */
  call(id, number) {
    return fetchJson(`api/runs/${encodeURIComponent(id)}/calls/${number}`);
  }

  /** A recorded denoising. */
  canvas(id, path, question, sample) {
    const asked = new URLSearchParams({ path });
    return fetchJson(`api/runs/${encodeURIComponent(id)}/canvases/${question}/${sample}?${asked}`);
  }

  /**
   * Follow a run from its beginning; a lost connection is taken up again, from the beginning, too. While the page is
   * hidden it has none: a browser keeps few at a time to one server, and the pages in view need them.
   * @param {string} id
   * @param {function(object)} onBatch
   * @param {function(ConnectionState)} onState
   * @returns {function()} what ends it
   */
  follow(id, onBatch, onState) {
    const url = `api/runs/${encodeURIComponent(id)}/feed`;
    let events = null;
    let timer = 0;
    let wait = FIRST_RETRY_MS;

    const leave = () => {
      clearTimeout(timer);
      events?.close();
      events = null;
    };
    const connect = () => {
      const mine = new EventSource(url);
      events = mine;
      mine.onopen = () => {
        wait = FIRST_RETRY_MS;
        onState(new ConnectionState("live"));
      };
      mine.onmessage = (message) => {
        const batch = JSON.parse(message.data);
        onBatch(batch);
        if (batch.problem) {
          stop();
          onState(new ConnectionState("refused", batch.problem));
        } else if (batch.end) {
          stop();
          onState(new ConnectionState("over"));
        }
      };
      mine.onerror = async () => {
        mine.close();
        const refusal = await refusalOf(url);
        if (events !== mine) {
          return;
        }
        const isFinal = refusal !== null && refusal.status < 500;
        const why = refusal === null ? NO_ANSWER : refusal.why;
        if (isFinal) {
          stop();
        } else {
          timer = setTimeout(connect, wait);
          wait = Math.min(2 * wait, LONGEST_RETRY_MS);
        }
        onState(new ConnectionState(isFinal ? "refused" : "lost", why));
      };
    };
    const onVisibility = () => {
      leave();
      if (!document.hidden) {
        connect();
      }
    };
    const stop = () => {
      leave();
      document.removeEventListener("visibilitychange", onVisibility);
    };
    document.addEventListener("visibilitychange", onVisibility);
    onVisibility();
    return stop;
  }
}

/** The one run of an exported file. */
export class FileSource {
  isFile = true;
  #blocks = new Map();

  /** Give the run's batches, one after the other. */
  follow(id, onBatch, onState) {
    let isStopped = false;
    const read = async () => {
      for (const block of document.querySelectorAll("script[data-batches]")) {
        for (const batch of await unpacked(block)) {
          if (isStopped) {
            return;
          }
          onBatch(batch);
        }
      }
      onState(new ConnectionState("over"));
    };
    read().catch((error) => onState(new ConnectionState("refused", `This file is damaged: ${error.message}`)));
    return () => {
      isStopped = true;
    };
  }

  /** The details of a call. */
  async call(id, number) {
    const calls = await this.#block("calls", Math.floor(number / CALLS_PER_BLOCK));
    const found = calls.find((call) => call.id === number);
    if (found === undefined) {
      throw new Error(`call ${number}: this file does not hold it`);
    }
    return found;
  }

  /** A recorded denoising. */
  canvas(id, path, question, sample) {
    return this.#block("canvas", `${question}/${sample}/${path}`);
  }

  #block(kind, key) {
    const name = `${kind} ${key}`;
    if (!this.#blocks.has(name)) {
      const block = [...document.querySelectorAll(`script[data-${kind}]`)].find((s) => s.dataset[kind] === String(key));
      this.#blocks.set(
        name,
        block === undefined ? Promise.reject(new Error(`${name}: this file does not hold it`)) : unpacked(block),
      );
    }
    return this.#blocks.get(name);
  }
}

/** `load`, asked once for each number; what fails, and what `isFinal` does not hold for yet, is asked again. */
export function remembered(load, isFinal) {
  const known = new Map();
  return (number) => {
    if (known.has(number)) {
      return known.get(number);
    }
    const answer = load(number);
    if (isFinal(number)) {
      known.set(number, answer);
      answer.catch(() => known.delete(number));
      if (known.size > KEPT_CALLS) {
        known.delete(known.keys().next().value);
      }
    }
    return answer;
  };
}

/** Where this page has its data from. */
export function pageSource() {
  return document.querySelector("script[data-batches]") === null ? new LiveSource() : new FileSource();
}

const NO_ANSWER = "The server does not answer. Is `llmprog view` still running?";

async function fetchJson(url) {
  let response;
  try {
    response = await fetch(url, { headers: { Accept: "application/json" } });
  } catch {
    throw new Error(NO_ANSWER);
  }
  if (!response.ok) {
    throw new Error(await whyRefused(response));
  }
  return response.json();
}

/** Why the server refuses `url`: its status and what it says; null where it does not answer, or does not refuse. */
async function refusalOf(url) {
  const leave = new AbortController();
  try {
    const response = await fetch(url, { signal: leave.signal });
    return response.ok ? null : { status: response.status, why: await whyRefused(response) };
  } catch {
    return null;
  } finally {
    leave.abort();
  }
}

async function whyRefused(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error ?? text;
  } catch {
    return text || `The server answered ${response.status}.`;
  }
}

async function unpacked(block) {
  const packed = atob(block.textContent.trim());
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i += 1) {
    bytes[i] = packed.charCodeAt(i);
  }
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}
