// Where the page has its data from: the server of `llmprog view`, or the blocks within an exported file.
//
// In a file each block is a `<script type="application/gzip+base64">` with gzip'd JSON in base64:
//   data-batches            a list of batches; in the order of the document
//   data-calls="K"          the details of the calls whose number divided by 100 is K, as a list
//   data-canvas="Q/S/PATH"  the canvas of question Q, sample S, of the search at PATH

import { askJson } from "./ask.js";
import { ConnectionState, followRun } from "./follow.js";

const CALLS_PER_BLOCK = 100;
const KEPT_CALLS = 300;

/** Runs of a store, from the server that gave this page. */
export class LiveSource {
  isFile = false;

  /** A page of the runs list: `{total, store, runs}`. */
  runs({ query = "", status = "", program = "", offset = 0, limit = 100 } = {}) {
    const asked = new URLSearchParams({ query, status, program, offset: String(offset), limit: String(limit) });
    return askJson(`api/runs?${asked}`);
  }

  /** The details of a call. */
  call(id, number) {
    return askJson(`api/runs/${encodeURIComponent(id)}/calls/${number}`);
  }

  /** A recorded denoising. */
  canvas(id, path, question, sample) {
    const asked = new URLSearchParams({ path });
    return askJson(`api/runs/${encodeURIComponent(id)}/canvases/${question}/${sample}?${asked}`);
  }

  /**
   * Follow a run from its beginning, and on for as long as the page is in view.
   * @param {string} id
   * @param {function(object)} onBatch
   * @param {function(ConnectionState)} onState
   * @returns {function()} what ends it
   */
  follow(id, onBatch, onState) {
    return followRun(`api/runs/${encodeURIComponent(id)}`, onBatch, onState);
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

async function unpacked(block) {
  const packed = atob(block.textContent.trim());
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i += 1) {
    bytes[i] = packed.charCodeAt(i);
  }
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}
