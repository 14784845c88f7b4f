/* Work that is asked for again and again. Pure, and tested with node. */

/** `ask()` has `work(stop)` run, `everyMs` from one beginning to the next at least. What is asked for while it runs
    comes when it is done, however often that is: so it comes to its end. `anew()` waits for the time, and not for
    that. `work` may give after how many milliseconds it is to be tried again. */
export function repeated(work, everyMs) {
  let [planned, wanted, ended, last] = [null, false, false, -Infinity];
  let running = null;
  async function run() {
    running?.abort();
    const mine = new AbortController();
    [planned, wanted, running, last] = [null, false, mine, Date.now()];
    const afterMs = await work(mine.signal);
    if (running !== mine) return;
    running = null;
    if (wanted || afterMs !== undefined) plan(afterMs);
  }
  function plan(afterMs = 0) {
    if (ended || planned !== null) return;
    planned = setTimeout(run, Math.max(afterMs, last + everyMs - Date.now()));
  }
  function ask() {
    if (running) wanted = true;
    else plan();
  }
  function end() {
    ended = true;
    clearTimeout(planned);
    running?.abort();
  }
  return { ask, anew: () => plan(), end };
}
