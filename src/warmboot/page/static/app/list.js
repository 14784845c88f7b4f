/* A list of things with search and filter: asked of the API part by part, by its cursors. */
import { get, query } from "./api.js";
import { html, useEffect, useState } from "./dom.js";
import { useLive } from "./live.js";
import { Loading, Told } from "./parts.js";
import { place, search } from "./router.js";

const PART = 100;
const MOST = 1000; // that the API gives in one answer
const AFTER_TYPING_MS = 200;

/** `states` can be chosen; `more` are parameters that are always sent; `children(items)` draws them. */
export function List({ path, kinds, states, more = {}, nothing, children }) {
  const wanted = place.value.search;
  const asked = { name: wanted.get("name") ?? "", state: wanted.get("state") ?? "", label: wanted.get("label") ?? "" };
  const [most, setMost] = useState(PART);
  const parameters = { ...(asked.state ? {} : more), ...asked, limit: most };
  const key = query(path, parameters);
  const shown = useLive((stop) => get(key, stop), kinds, key);
  const [before, keep] = useState(null);
  useEffect(() => {
    if (shown.data) keep(shown.data);
  }, [shown.data]);
  const data = shown.data ?? (shown.problem ? null : before); // while more is loaded
  const items = data?.items ?? [];
  const filtered = asked.name || asked.state || asked.label;
  return html`
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <${Search} label="Name" parameter="name" value=${asked.name} placeholder="part of a name" />
      <label>State <select value=${asked.state} onChange=${(event) => search({ state: event.target.value })}>
        <option value="">any</option>
        ${states.map((one) => html`<option key=${one} value=${one} selected=${one === asked.state}>${one}</option>`)}
      </select></label>
      <${Search} label="Label" parameter="label" value=${asked.label} placeholder="NAME or NAME=VALUE" />
    </form>
    <${Told} problem=${shown.problem} />
    ${!data && html`<${Loading} of=${shown} />`}
    ${data && items.length === 0 && html`<p class="quiet-text">${filtered ? "Nothing is like that." : nothing}</p>`}
    ${items.length > 0 && children(items)}
    ${data?.next_cursor && most < MOST && html`<p><button type="button" onClick=${() => setMost(Math.min(MOST, most + 2 * PART))}>Show more</button></p>`}
    ${data?.next_cursor && most >= MOST && html`<p class="quiet-text">The newest ${MOST} are shown: search for the others.</p>`}`;
}

function Search({ label, parameter, value, placeholder }) {
  const [typed, type] = useState(value);
  useEffect(() => {
    if (typed === value) return undefined;
    const timer = setTimeout(() => search({ [parameter]: typed }), AFTER_TYPING_MS);
    return () => clearTimeout(timer);
  }, [typed]);
  useEffect(() => type(value), [value]);
  return html`<label>${label} <input type="search" value=${typed} placeholder=${placeholder} autocomplete="off" spellcheck=${false}
    onInput=${(event) => type(event.target.value)} /></label>`;
}
