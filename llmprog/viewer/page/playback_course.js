// How a recorded canvas was written: what each step changed, and when each token came to stay.

/**
 * What became of a token in a step: "written" (it was a mask), "changed" (it was another token), "masked" (it was taken
 * back), or "" where it reads as before, however likely it is now.
 * @param {[string|null, number|null]|undefined} before
 * @param {[string|null, number|null]} now
 * @returns {string}
 */
function changeOf(before, now) {
  const was = before?.[0] ?? null;
  if (was === null) {
    return now[0] === null ? "" : "written";
  }
  if (now[0] === null) {
    return "masked";
  }
  return was === now[0] ? "" : "changed";
}

/** The steps of one canvas, and what follows from them. */
export class Course {
  /** @param {Array<{at: number|null, tokens?: Array, text?: string}>} steps as they are recorded */
  constructor(steps) {
    this.steps = steps;
    this.hasTokens = steps.length > 0 && steps.every((step) => step.tokens !== undefined);
    /** Of each token of the last step the step that wrote it last: 0 where it was given, -1 where it is a mask. */
    this.settledAt = this.hasTokens ? settledSteps(steps) : [];
    /** Of each step how many tokens it wrote that stayed. */
    this.numSettled = steps.map(() => 0);
    for (const step of this.settledAt) {
      if (step > 0) {
        this.numSettled[step] += 1;
      }
    }
  }

  /** The number of the last step. */
  get last() {
    return this.steps.length - 1;
  }

  /** What became of each token in a step; nothing happened in the first. */
  changes(index) {
    const now = this.steps[index].tokens;
    const before = index > 0 ? this.steps[index - 1].tokens : now;
    return now.map((token, place) => changeOf(before[place], token));
  }

  /** Tokens written up to a step, tokens of its canvas, and the mean probability of those that have one, or null. */
  progress(index) {
    const tokens = this.steps[index].tokens;
    const written = tokens.filter(([text]) => text !== null);
    const known = written.map(([, probability]) => probability).filter((probability) => probability !== null);
    return {
      numWritten: written.length,
      numTokens: tokens.length,
      mean: known.length > 0 ? known.reduce((sum, value) => sum + value, 0) / known.length : null,
    };
  }

  /** Seconds from the first step to this one, or null. */
  secondsAt(index) {
    return this.steps[index].at ?? null;
  }
}

function settledSteps(steps) {
  return steps.at(-1).tokens.map(([text], place) => {
    if (text === null) {
      return -1;
    }
    let index = steps.length - 1;
    while (index > 0 && changeOf(steps[index - 1].tokens[place], steps[index].tokens[place]) === "") {
      index -= 1;
    }
    return index;
  });
}
