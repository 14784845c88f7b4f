/* Events: the newest, and those that come, filtered. */
import { get } from "../api.js";
import { html, useEffect, useState } from "../dom.js";
import { connection, onEvent } from "../events.js";
import { brief, matches, merged, newestId } from "../journal.js";
import { useLive } from "../live.js";
import { Loading, Told } from "../parts.js";
import { link, place, search } from "../router.js";

const LOADED = 500;
const KEPT = 2000;
const SHOWN = 200;
const DRAWN_EVERY_MS = 100;
const PAGES = { container: "containers", engine: "engines", worker: "workers" };

async function load(stop) {
  const first = async (after) => (await get(`/v1/events?after=${after}&limit=1`, stop)).items[0]?.id ?? null;
  const newest = await newestId(first);
  return (await get(`/v1/events?after=${Math.max(0, newest - LOADED)}&limit=1000`, stop)).items;
}

export function Events() {
  const shown = useLive(load, []);
  const [came, add] = useState([]);
  const [most, setMost] = useState(SHOWN);
  const wanted = place.value.search.get("like") ?? "";
  useEffect(() => {
    let waiting = [];
    let timer = null;
    const off = onEvent((event) => {
      waiting.push(event);
      timer ??= setTimeout(() => {
        const some = waiting;
        [waiting, timer] = [[], null];
        add((before) => merged(before, some, KEPT));
      }, DRAWN_EVERY_MS);
    });
    return () => {
      off();
      clearTimeout(timer);
    };
  }, []);
  const all = merged(shown.data ?? [], came, KEPT).filter((one) => matches(one, wanted));
  return html`<h1>Events</h1>
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <label>Like <input type="search" value=${wanted} placeholder="container.failed, an id, a word" autocomplete="off" spellcheck=${false}
        onInput=${(event) => search({ like: event.target.value })} /></label>
      <span role="status" class="quiet-text">${all.length} events${connection.value === "live" ? ", more as they come" : ""}</span>
    </form>
    <${Told} problem=${shown.problem} />
    ${!shown.data && html`<${Loading} of=${shown} />`}
    <table class="list events">
      <thead><tr><th>Time</th><th>Kind</th><th>Of</th><th>What</th></tr></thead>
      <tbody>
        ${all
          .slice(-most)
          .reverse()
          .map((one) => html`<${Row} key=${one.id} one=${one} />`)}
      </tbody>
    </table>
    ${all.length > most && html`<p><button type="button" onClick=${() => setMost(most + SHOWN)}>Show more</button></p>`}`;
}

function Row({ one }) {
  const to = PAGES[one.kind.split(".")[0]];
  const name = one.subject_id.slice(0, 8);
  const { error } = one.data;
  const told = brief(one.data);
  return html`<tr>
    <td data-name="Time"><time datetime=${one.at} title=${one.at}>${new Date(one.at).toLocaleTimeString()}</time></td>
    <td data-name="Kind">${one.kind}</td>
    <td data-name="Of">${to ? html`<a href=${link(to, one.subject_id)}>${name}</a>` : name}</td>
    <td data-name="What">${error && html`<${Told} problem=${error} />`}${told && html`<code class="data">${told}</code>`}</td>
  </tr>`;
}
