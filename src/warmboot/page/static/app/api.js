/* Requests to the API: the token, errors as the API tells them, and the manager's clock. */
import { signal } from "./dom.js";

const KEY = "warmboot-token";
const ANSWER_WITHIN_MS = 30_000;
const AGAIN_AFTER_MS = [150, 400];

/** Kept for this tab alone, and sent in a header: never in a URL, never in a cookie. */
export const token = signal(sessionStorage.getItem(KEY) ?? "");
/** The problem with which the API let nobody in, or null; `admitted`: it has answered us. */
export const refused = signal(null);
export const admitted = signal(false);

let aheadMs = 0;
/** The manager's time, whatever this machine's clock says. */
export const now = () => Date.now() + aheadMs;

export function signIn(given) {
  if (given) sessionStorage.setItem(KEY, given);
  else sessionStorage.removeItem(KEY);
  token.value = given;
  refused.value = null;
  admitted.value = false;
}

/** What went wrong (`title`), the details, and what to do (`resolution`), in the API's words. */
export class Problem extends Error {
  constructor(told, status = 0) {
    super(told.title ?? "something went wrong");
    this.title = this.message;
    this.detail = told.detail ?? "";
    this.resolution = told.resolution ?? "";
    this.code = told.code ?? "";
    this.status = status;
  }
}

const unreachable = (detail) =>
  new Problem({
    code: "manager-unreachable",
    title: "the manager does not answer",
    detail,
    resolution: "see `systemctl status warmboot`; this page tries again by itself",
  });

async function problemOf(answer) {
  try {
    return new Problem(await answer.json(), answer.status);
  } catch {
    return new Problem({ title: `the answer was ${answer.status} ${answer.statusText}` }, answer.status);
  }
}

/** Some browsers drop what is under way whenever this machine's networks change, as they do with each VM:
    what only reads is asked for again before anybody is told. */
async function reached(path, options) {
  const times = (options.method ?? "GET") === "GET" ? AGAIN_AFTER_MS.length : 0;
  for (let tried = 0; ; tried += 1) {
    try {
      return await fetch(path, options);
    } catch (error) {
      if (options.signal?.aborted) throw error;
      if (tried === times) throw unreachable(String(error.message ?? error));
      await new Promise((resolve) => setTimeout(resolve, AGAIN_AFTER_MS[tried]));
    }
  }
}

/** The answer to a request, if it is a good one; a `Problem` is thrown if not. */
export async function ask(path, { headers = {}, signal: stop, ...options } = {}) {
  const shown = token.value;
  if (shown) headers = { ...headers, Authorization: `Bearer ${shown}` };
  const answer = await reached(path, { ...options, headers, signal: stop, credentials: "omit", cache: "no-store" });
  const date = Date.parse(answer.headers.get("date") ?? "");
  // The header has whole seconds, so less than two of them are no difference.
  if (!Number.isNaN(date)) aheadMs = Math.abs(date - Date.now()) < 2000 ? 0 : date - Date.now();
  if (answer.ok) {
    admitted.value = true;
    return answer;
  }
  const problem = await problemOf(answer);
  if (answer.status === 401 && shown === token.value) {
    refused.value = problem;
    admitted.value = false;
  }
  throw problem;
}

async function within(path, stop, read) {
  const late = AbortSignal.timeout(ANSWER_WITHIN_MS);
  try {
    return await read(await ask(path, { signal: stop ? AbortSignal.any([stop, late]) : late }));
  } catch (error) {
    if (late.aborted && !stop?.aborted) throw unreachable(`there was no answer for ${ANSWER_WITHIN_MS / 1000} s`);
    throw error;
  }
}

/** A JSON document, and a text. */
export const get = (path, stop) => within(path, stop, (answer) => answer.json());
export const getText = (path, stop) => within(path, stop, (answer) => answer.text());

/** `path?a=1&b=2&b=3` of `{a: 1, b: [2, 3]}`; what is empty is left out. */
export function query(path, parameters) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== "" && one !== null && one !== undefined) search.append(name, one);
    }
  }
  const text = search.toString();
  return text ? `${path}?${text}` : path;
}

export const encoded = encodeURIComponent;
