/* Buttons that do something to one thing, and those that ask first. */
import { act, isBusy, send } from "./actions.js";
import { encoded } from "./api.js";
import { html, useRef, useEffect, useState } from "./dom.js";
import { link, place } from "./router.js";
import { verbs } from "./verbs.js";

/** A button; with `asks` it is pressed twice, the second time below the question. */
export function Button({ label, asks, busy, onPress, danger }) {
  const [asking, ask] = useState(false);
  const [no, first, asked] = [useRef(null), useRef(null), useRef(false)];
  useEffect(() => {
    if (asking) no.current?.focus();
    else if (asked.current) first.current?.focus(); // not to the document's beginning
    asked.current = asking;
  }, [asking]);
  const press = () => {
    ask(false);
    onPress();
  };
  if (!asking) {
    return html`<button type="button" ref=${first} class=${danger ? "danger" : ""} disabled=${busy} onClick=${asks ? () => ask(true) : press}>${label}</button>`;
  }
  return html`<span class="question" role="group" aria-label=${asks} onKeyDown=${(event) => event.key === "Escape" && ask(false)}>
    ${asks} <button type="button" class="danger" onClick=${press}>${label}</button>
    <button type="button" ref=${no} onClick=${() => ask(false)}>Keep it</button>
  </span>`;
}

/** All that can be done with a container or an engine as it is. */
export function Verbs({ noun, of }) {
  const busy = isBusy(of.id);
  async function press({ doing, method, path, body }) {
    const way = `/v1/${noun}s/${encoded(of.id)}`;
    const to = path.startsWith("?") || !path ? `${way}${path}` : `${way}/${path}`;
    const given = await act(of.id, `${doing} ${of.name}`, () => send(method, to, body));
    const [shown, one] = place.value.parts;
    if (given && method === "DELETE" && shown === `${noun}s` && [of.id, of.name].includes(one)) location.hash = link(shown);
  }
  const offered = verbs(noun, of.state);
  if (!offered.length) return null;
  return html`<p class="buttons" role="group" aria-label=${`What can be done with ${of.name}`}>
    ${offered.map(
      (verb) => html`<${Button} key=${verb.label} label=${verb.label} busy=${busy} danger=${verb.method === "DELETE"}
        asks=${verb.asks && `Remove ${of.name}, ${verb.asks}?`} onPress=${() => press(verb)} />`,
    )}
  </p>`;
}
