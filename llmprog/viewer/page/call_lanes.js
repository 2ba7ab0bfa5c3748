// Calls side by side: each in the first lane in which no other is under way.

import { countBefore } from "./call_spans.js";

/** The lanes of spans; each span is told its own, as `lane`. */
export class Lanes {
  #lanes = [];

  /** How many there are. */
  get count() {
    return this.#lanes.length;
  }

  /**
   * Lay spans anew that begin at a moment or later.
   * @param {{start: number, end: number}[]} spans all of them, in the order of their starts
   * @param {number} since those before it have their lanes from an earlier time
   */
  lay(spans, since) {
    const lanes = this.#lanes;
    const busy = new Heap((one, other) => one.end - other.end || one.lane - other.lane);
    const free = new Heap((one, other) => one - other);
    for (const lane of lanes) {
      while (lane.length > 0 && lane.at(-1).start >= since) {
        lane.pop();
      }
    }
    // The first free lane is the one that is taken: lanes that are empty now were the last to be opened.
    while (lanes.length > 0 && lanes.at(-1).length === 0) {
      lanes.pop();
    }
    lanes.forEach((lane, number) => busy.push({ end: lane.at(-1).end, lane: number }));
    for (let index = countBefore(spans, (span) => span.start >= since); index < spans.length; index += 1) {
      const span = spans[index];
      while (busy.size > 0 && busy.first.end <= span.start) {
        free.push(busy.pop().lane);
      }
      span.lane = free.size > 0 ? free.pop() : lanes.push([]) - 1;
      lanes[span.lane].push(span);
      busy.push({ end: span.end, lane: span.lane });
    }
  }

  /** The spans of a lane, in order: none begins before the one before it has ended. */
  of(lane) {
    return this.#lanes[lane] ?? [];
  }

  /** The index in its lane of the first span that has not ended before a moment. */
  firstAfter(lane, moment) {
    return countBefore(this.of(lane), (span) => span.end >= moment);
  }

  /**
   * The span at a moment in a lane, else the nearest; null if there is none.
   * @param {number} lane
   * @param {number} moment
   * @param {number} slackS seconds that it may be away
   * @param {number} blurS seconds that cannot be told apart; of several spans in them the one with the highest rank is
   *   found
   * @param {function(object): number} rankOf
   */
  at(lane, moment, slackS, blurS, rankOf) {
    const spans = this.of(lane);
    let [found, least, highest] = [null, slackS, -1];
    for (let index = this.firstAfter(lane, moment - slackS); index < spans.length; index += 1) {
      const span = spans[index];
      if (span.start > moment + slackS) {
        break;
      }
      const away = Math.max(span.start - moment, moment - span.end, 0);
      const distance = away <= blurS ? 0 : away;
      const rank = rankOf(span);
      if (distance < least || (distance === least && rank > highest)) {
        [found, least, highest] = [span, distance, rank];
      }
    }
    return found;
  }
}

/** A binary heap: the least of what is in it, by `compare`, comes out first. */
class Heap {
  #items = [];
  #compare;

  constructor(compare) {
    this.#compare = compare;
  }

  get size() {
    return this.#items.length;
  }

  get first() {
    return this.#items[0];
  }

  push(item) {
    const items = this.#items;
    let place = items.push(item) - 1;
    while (place > 0) {
      const above = (place - 1) >> 1;
      if (this.#compare(items[above], item) <= 0) {
        break;
      }
      items[place] = items[above];
      place = above;
    }
    items[place] = item;
  }

  pop() {
    const items = this.#items;
    const first = items[0];
    const item = items.pop();
    if (items.length > 0) {
      let place = 0;
      for (let below = 1; below < items.length; below = 2 * place + 1) {
        if (below + 1 < items.length && this.#compare(items[below + 1], items[below]) < 0) {
          below += 1;
        }
        if (this.#compare(item, items[below]) <= 0) {
          break;
        }
        items[place] = items[below];
        place = below;
      }
      items[place] = item;
    }
    return first;
  }
}
