// A question to a model and what it answered: prompt, completions with the probabilities of their tokens, likelihoods.

import { el, formatCount, formatPlural, formatScore, formatShare, formatValue, shorten, visible } from "./text.js";

const PIECES_AT_FIRST = 2000;
const LONGEST_GAP = 200;
const LONGEST_NAME = 30;

/** What a model was asked: the messages, the text with blanks, the texts that were weighed. */
export function questionView(question) {
  const parts = question.prompt.map(({ role, content }) =>
    el("div", { class: "message" }, el("h4", {}, role), el("pre", {}, formatValue(content))),
  );
  if (question.prefix) {
    parts.push(el("h4", {}, "the reply begins with"), el("pre", {}, question.prefix));
  }
  if (question.parts) {
    const filled = question.parts.map((part) => (typeof part === "string" ? part : `▒×${part.blank}`));
    parts.push(el("h4", {}, "to fill in"), el("pre", {}, filled.join("")));
  }
  if (question.continuations?.length) {
    parts.push(
      el("h4", {}, "how likely is"),
      el(
        "ol",
        {},
        question.continuations.map((text) => el("li", {}, el("pre", {}, formatValue(text)))),
      ),
    );
  }
  return el("div", { class: "question", "data-testid": "prompt" }, parts);
}

/** How completions are drawn, on one line. */
export function paramsText(params) {
  return Object.entries(params ?? {})
    .filter(([, value]) => value !== null && !(Array.isArray(value) && value.length === 0))
    .map(([name, value]) => `${name} ${formatValue(value)}`)
    .join(", ");
}

/** One completion: its text, shaded where the tokens' probabilities are known, and its reasoning folded. */
export function completionView(completion) {
  const facts = [
    formatPlural(completion.usage?.completion_tokens ?? 0, "token"),
    completion.finish_reason === "stop" ? null : `ended by ${completion.finish_reason}`,
    completion.model,
  ].filter(Boolean);
  return el(
    "div",
    { class: "completion", "data-testid": "completion" },
    completion.reasoning &&
      el(
        "details",
        { class: "reasoning" },
        el("summary", {}, `Reasoning, ${formatCount(completion.reasoning.length)} characters`),
        el("pre", {}, completion.reasoning),
      ),
    completion.tokens?.length
      ? tokensView(completion.tokens, completion.text)
      : el("pre", { class: "said" }, completion.text),
    completion.violation && el("p", { class: "fault" }, `Not what was asked for: ${completion.violation}`),
    el("p", { class: "facts quiet" }, facts.join(" · ")),
  );
}

/** A completion that unfolds: its first words, then all of it. */
export function foldedCompletion(completion) {
  const folded = el(
    "details",
    { class: "folded" },
    el(
      "summary",
      {},
      el("span", { class: "quiet" }, `sample ${completion.sample} `),
      shorten(completion.text, 70) || "(empty)",
    ),
  );
  folded.addEventListener("toggle", () => folded.append(completionView(completion)), { once: true });
  return folded;
}

/** Likelihoods: for each continuation its tokens, shaded, and the sum of their log-probabilities. */
export function scoresView(scores) {
  return el(
    "ol",
    { class: "scores" },
    scores.map((score) => {
      const total = score.tokens.reduce((sum, [, logprob]) => sum + logprob, 0);
      return el(
        "li",
        {},
        tokensView(score.tokens),
        el("p", { class: "facts quiet" }, `log-probability ${formatScore(total)}`),
      );
    }),
  );
}

/** Tokens shaded by how unlikely they were; where `text` is known, with what it has between them. */
function tokensView(tokens, text = "") {
  const pieces = inText(tokens, text) ?? tokens;
  const shown = el("pre", { class: "said tokens" }, pieces.slice(0, PIECES_AT_FIRST).map(pieceView));
  if (pieces.length > PIECES_AT_FIRST) {
    const rest = el("button", {}, `Show ${formatPlural(pieces.length - PIECES_AT_FIRST, "more token")}`);
    rest.addEventListener("click", () => rest.replaceWith(...pieces.slice(PIECES_AT_FIRST).map(pieceView)));
    shown.append(rest);
  }
  const known = tokens.filter(([, logprob]) => typeof logprob === "number");
  if (known.length === 0) {
    return shown;
  }
  const mean = Math.exp(known.reduce((sum, [, logprob]) => sum + logprob, 0) / known.length);
  const [least, logprob] = known.reduce((one, other) => (other[1] < one[1] ? other : one));
  const legend = `mean probability ${formatShare(mean)}, least ${formatShare(Math.exp(logprob))} for ${tokenName(least)}`;
  return [
    shown,
    el("p", { class: "facts quiet" }, el("span", { class: "token-key" }, "darker: less likely"), ` · ${legend}`),
  ];
}

/**
 * Tokens in their places: some tokenizers leave out the spaces between them.
 * @returns {Array<[string, number|null]>|null} null where the tokens are not those of the text
 */
function inText(tokens, text) {
  const pieces = [];
  let at = 0;
  for (const [token, logprob] of tokens) {
    const gap = text.startsWith(token, at) ? 0 : /^\s*/.exec(text.slice(at, at + LONGEST_GAP))[0].length;
    if (!text.startsWith(token, at + gap)) {
      return null;
    }
    if (gap > 0) {
      pieces.push([text.slice(at, at + gap), null]);
    }
    pieces.push([token, logprob]);
    at += gap + token.length;
  }
  return at < text.length ? [...pieces, [text.slice(at), null]] : pieces;
}

function pieceView([text, logprob]) {
  if (typeof logprob !== "number") {
    return document.createTextNode(visible(text));
  }
  const probability = Math.min(1, Math.exp(logprob));
  const title = `${tokenName(text)}: probability ${formatShare(probability)}, log-probability ${formatScore(logprob)}`;
  const token = el("span", { class: "token", title, "data-testid": "token" }, text);
  token.style.setProperty("--doubt", `${Math.round(100 * (1 - probability))}%`);
  return token;
}

/** A token in quotes, its white space to be seen; the end of a text is a token, too, which writes nothing. */
function tokenName(text) {
  return text === "" ? "the end" : `“${text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").slice(0, LONGEST_NAME)}”`;
}
