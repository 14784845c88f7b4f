/* What is loaded, and loaded again when something has happened to it. */
import { effect, useEffect, useRef, useState } from "./dom.js";
import { connects, onEvent } from "./events.js";
import { now, token } from "./api.js";
import { repeated } from "./repeated.js";

const AT_MOST_EVERY_MS = 1_000;
const TRY_AGAIN_AFTER_MS = 5_000;

/** `{data, problem}` of `load(stop)`: called when `key` changes, after events of these kinds, and when
    the stream came up again; of what no event tells, every `atLeastEveryMs`, too, while the page is looked at. What
    is shown stays until there is something newer. */
export function useLive(load, kinds, key = "", atMostEveryMs = AT_MOST_EVERY_MS, atLeastEveryMs = null) {
  const [shown, show] = useState({ data: null, problem: null, key });
  const latest = useRef(load);
  latest.current = load;
  useEffect(() => {
    async function run(stop) {
      try {
        const data = await latest.current(stop);
        if (!stop.aborted) show({ data, problem: null, key });
      } catch (problem) {
        if (stop.aborted) return undefined;
        show((before) => ({ data: before.key === key && problem.status !== 404 ? before.data : null, problem, key }));
        if (!problem.status || problem.status >= 500) return TRY_AGAIN_AFTER_MS;
      }
      return undefined;
    }
    const { ask, anew, end } = repeated(run, atMostEveryMs);
    const off = onEvent((event) => kinds.some((kind) => event.kind.startsWith(kind)) && ask());
    const offConnects = effect(() => {
      connects.value;
      token.value;
      anew();
    });
    const again = () => document.hidden || ask();
    const timer = atLeastEveryMs === null ? null : setInterval(again, atLeastEveryMs);
    if (timer !== null) document.addEventListener("visibilitychange", again);
    return () => {
      end();
      clearInterval(timer);
      document.removeEventListener("visibilitychange", again);
      off();
      offConnects();
    };
  }, [key]);
  return shown.key === key ? shown : { data: null, problem: null };
}

/** The manager's time, renewed every so many milliseconds, so that ages go on. */
export function useNow(everyMs = 10_000) {
  const [at, tick] = useState(now());
  useEffect(() => {
    const timer = setInterval(() => tick(now()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return at;
}
