/* One stream of events a browser. The tab that holds the lock follows it and tells the others, which
   take its place when it is closed. Where there are no locks (plain HTTP from another machine), each
   tab has a stream of its own. */
import { admitted, ask } from "./api.js";
import { effect, signal } from "./dom.js";
import { eventReader } from "./sse.js";

const NAME = "warmboot-events";
const SILENT_FOR_MS = 40_000; // the manager sends a comment every 15 s
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8_000;

/** `connecting`, `live` or `lost`. */
export const connection = signal("connecting");
/** Counts the times that the stream came up: what was shown before may be old. */
export const connects = signal(0);

const listeners = new Set();
const channel = new BroadcastChannel(NAME);
let lastId = null;
let leads = false;

/** Calls `listener` with each event from now on; gives back how to end that. */
export function onEvent(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function deliver(event) {
  lastId = event.id;
  for (const listener of listeners) listener(event);
}

function become(state) {
  if (state === "live" && connection.value !== "live") connects.value += 1;
  connection.value = state;
  if (leads) channel.postMessage({ state });
}

channel.onmessage = ({ data }) => {
  if (leads) {
    if (data.hello) channel.postMessage({ state: connection.value });
  } else if (data.event) {
    deliver(data.event);
  } else if (data.state) {
    become(data.state);
  }
};

async function followOnce(onHeard) {
  // Without an event to go on from, what has happened since the last stream is not told: all is loaded again.
  if (lastId === null && connection.value === "live") become("connecting");
  const stop = new AbortController();
  let heard = Date.now();
  const watch = setInterval(() => Date.now() - heard > SILENT_FOR_MS && stop.abort(), 5_000);
  const unwatch = effect(() => {
    if (!admitted.value) stop.abort(); // the token was forgotten, or counts no more
  });
  try {
    const headers = { Accept: "text/event-stream" };
    if (lastId !== null) headers["Last-Event-ID"] = String(lastId);
    const answer = await ask("/v1/events?follow=true", { headers, signal: stop.signal });
    const pieces = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    const read = eventReader();
    for (;;) {
      const { done, value } = await pieces.read();
      if (done) return;
      heard = Date.now();
      onHeard();
      become("live");
      for (const { data } of read(value)) {
        const event = JSON.parse(data);
        deliver(event);
        if (leads) channel.postMessage({ event });
      }
    }
  } finally {
    clearInterval(watch);
    unwatch();
    stop.abort();
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function lead() {
  leads = true;
  let wait = FIRST_PAUSE_MS;
  while (admitted.value) {
    let heardAny = false;
    try {
      await followOnce(() => (heardAny = true));
    } catch (error) {
      if (error.status === 401) break;
      // Whatever it is, it is shown as a lost connection, and tried again.
    }
    if (heardAny) {
      wait = FIRST_PAUSE_MS; // it may be back at once, before anybody has to be told
    } else {
      become("lost");
      wait = Math.min(wait * 2, LONGEST_PAUSE_MS);
    }
    await pause(wait);
  }
  leads = false;
}

/** Follows the events whenever the API has let this tab in. */
export function followEvents() {
  const busy = signal(false);
  effect(() => {
    if (!admitted.value || busy.value) return;
    busy.value = true;
    channel.postMessage({ hello: true });
    const leading = navigator.locks ? navigator.locks.request(NAME, lead) : lead();
    leading.finally(() => (busy.value = false));
  });
}
