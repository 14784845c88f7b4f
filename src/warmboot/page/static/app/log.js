/* What something writes, as it comes: rows of one height, of which only those in sight are in the document. */
import { ask } from "./api.js";
import { html, useEffect, useRef, useState } from "./dom.js";
import { lineKeeper, seen } from "./lines.js";
import { Told } from "./parts.js";

const MOST = 100_000;
const ROW_PX = 18; // as in style.css
const AGAIN_AFTER_MS = 2_000; // all of it, as nothing tells where it was cut off

/** Of `path`, the output of a thing; it is asked for anew when `key` changes, and after the connection was lost, if
    it is `readable(stop)` still. */
export function Log({ path, key_: key, readable = async () => true }) {
  const [, draw] = useState(0);
  const [problem, tell] = useState(null);
  const [state, become] = useState("loading");
  const box = useRef(null);
  const kept = useRef(null);
  const follows = useRef(true);
  useEffect(() => {
    const stop = new AbortController();
    kept.current = null;
    tell(null);
    become("loading");
    let frame = null;
    const drawn = () => {
      frame = null;
      draw((before) => before + 1);
    };
    async function follow() {
      const answer = await ask(`${path}?follow=true&tail=${MOST}`, { signal: stop.signal });
      const keeper = lineKeeper(MOST);
      kept.current = keeper;
      tell(null);
      become("following");
      const pieces = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await pieces.read();
        if (done) return;
        keeper.add(value);
        frame ??= requestAnimationFrame(drawn);
      }
    }
    async function keepFollowing() {
      for (let times = 0; !stop.signal.aborted; times += 1) {
        try {
          if (times === 0 || (await readable(stop.signal))) {
            await follow();
            become("ended");
            return;
          }
        } catch (error) {
          if (stop.signal.aborted) return;
          become("lost");
          if (error.title) tell(error);
          if (error.status && error.status < 500) return;
        }
        await new Promise((resolve) => setTimeout(resolve, AGAIN_AFTER_MS));
      }
    }
    keepFollowing();
    return () => {
      stop.abort();
      cancelAnimationFrame(frame);
    };
  }, [path, key]);
  useEffect(() => {
    if (follows.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  });
  const lines = kept.current?.lines ?? [];
  const element = box.current;
  const { first, last } = seen(lines.length, ROW_PX, element?.scrollTop ?? 0, element?.clientHeight ?? 400);
  function scrolled() {
    follows.current = element.scrollHeight - element.scrollTop - element.clientHeight < 2 * ROW_PX;
    draw((before) => before + 1);
  }
  const told = { loading: "loading", following: "follows", ended: "it has ended", lost: "the connection was lost" }[state];
  return html`<p class="quiet-text">${lines.length} lines, ${told}${kept.current?.dropped ? `; ${kept.current.dropped} earlier ones are left out` : ""}</p>
    <${Told} problem=${problem} />
    <div class="log" ref=${box} onScroll=${scrolled} tabindex="0" role="log" aria-live="off" aria-label="Output">
      <div class="log-rows" style=${{ height: `${lines.length * ROW_PX}px` }}>
        <pre style=${{ top: `${first * ROW_PX}px` }}>${lines.slice(first, last).join("\n")}</pre>
      </div>
    </div>`;
}
