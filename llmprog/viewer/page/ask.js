// Asking the server that gave this page, and saying why it does not answer.

const NO_ANSWER = "The server does not answer. Is `llmprog view` still running?";

/** Why there is no answer; `status` is that of HTTP, null where nobody answered. */
export class AskError extends Error {
  constructor(why, status = null) {
    super(why);
    this.status = status;
  }
}

/**
 * What is at an address of the server, as a JSON value.
 * @param {string} url
 * @param {AbortSignal} [signal] ends the asking
 * @throws {AskError} the server refuses, or does not answer
 */
export async function askJson(url, signal) {
  const response = await answerTo(url, signal);
  return response.json();
}

/**
 * Why what came from an address has ended; the server is not asked for more than that.
 * @param {string} url
 * @returns {Promise<AskError>}
 */
export async function askWhyNot(url) {
  const leave = new AbortController();
  try {
    await answerTo(url, leave.signal);
    return new AskError("It broke, but the server answers.");
  } catch (error) {
    return error;
  } finally {
    leave.abort();
  }
}

async function answerTo(url, signal) {
  let response;
  try {
    response = await fetch(url, { headers: { Accept: "application/json" }, signal });
  } catch {
    throw new AskError(NO_ANSWER);
  }
  if (!response.ok) {
    throw new AskError(await whyRefused(response), response.status);
  }
  return response;
}

async function whyRefused(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error ?? text;
  } catch {
    return text || `The server answered ${response.status}.`;
  }
}
