/* What is asked for by buttons: told at once, answered when it is done, and kept until it is read if it failed. */
import { ask, Problem } from "./api.js";
import { html, signal } from "./dom.js";
import { Told } from "./parts.js";

const DONE_IS_SHOWN_MS = 4_000;
const ANSWERED_WITHIN_MS = 15 * 60_000; // a large memory that is parked takes minutes
const ASKED_AGAIN_AFTER_MS = 1_000;
const MOST_LOST = 5;
const TOO_LONG = {
  title: "there was no answer for a quarter of an hour",
  resolution: "it may go on: see the events",
};

/** All that is under way or was answered: `{id, doing, done, problem, key}`, the oldest first. */
const notes = signal([]);
let count = 0;

const change = (id, news) => (notes.value = notes.value.map((one) => (one.id === id ? { ...one, ...news } : one)));
const drop = (id) => (notes.value = notes.value.filter((one) => one.id !== id));

/** Whether something is under way for this thing. */
export const isBusy = (key) => notes.value.some((one) => one.key === key && !one.done && !one.problem);

function idempotencyKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A request that changes something. Where its answer was lost it is asked again: with the same key what is
    posted is done once, and what is gone by then is deleted. */
export async function send(method, path, body) {
  const headers = {};
  if (method === "POST") headers["Idempotency-Key"] = idempotencyKey();
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { method, headers, body: body === undefined ? undefined : JSON.stringify(body) };
  const stop = AbortSignal.timeout(ANSWERED_WITHIN_MS);
  for (let lost = 0; ; ) {
    try {
      return await (await ask(path, { ...options, signal: stop })).json();
    } catch (problem) {
      if (stop.aborted) throw new Problem(TOO_LONG);
      if (lost > 0 && method === "DELETE" && problem.status === 404) return { ok: true };
      // Without a status nothing was answered, or not to the end.
      lost += problem.status ? 0 : 1;
      const comes = problem.code === "request-still-running" || (lost <= MOST_LOST && !problem.status);
      if (!comes) throw problem;
      await pause(ASKED_AGAIN_AFTER_MS);
    }
  }
}

/** Runs `work`, and tells `doing` (`Stopping web-1`) at once; gives what it gives, or null if it failed. */
export async function act(key, doing, work) {
  const id = (count += 1);
  notes.value = [...notes.value, { id, key, doing, done: false, problem: null }];
  try {
    const given = await work();
    change(id, { done: true });
    setTimeout(() => drop(id), DONE_IS_SHOWN_MS);
    return given ?? true;
  } catch (problem) {
    change(id, { problem });
    return null;
  }
}

export const Notes = () => html`<div class="notes" role="status" aria-live="polite">
  ${notes.value.map(
    (one) => html`<div class="note" key=${one.id}>
      <p>${one.doing}${one.done ? ": done" : one.problem ? ": failed" : "…"}
        ${(one.done || one.problem) && html` <button type="button" class="small" onClick=${() => drop(one.id)}>Close</button>`}</p>
      <${Told} problem=${one.problem} />
    </div>`,
  )}
</div>`;
