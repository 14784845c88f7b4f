/* Engines: the list, and one of them. */
import { encoded, get } from "../api.js";
import { Verbs } from "../buttons.js";
import { html } from "../dom.js";
import { ago, seconds, shape, size, status } from "../format.js";
import { List } from "../list.js";
import { useLive, useNow } from "../live.js";
import { Badge, Command, Facts, Loading, Section, Told } from "../parts.js";
import { link } from "../router.js";
import { states } from "../verbs.js";
import { Waterfall } from "../waterfall.js";
import { Attempts, bootFacts, givenFacts } from "./boot.js";
import { Ports } from "./containers.js";

export function Engines() {
  const at = useNow();
  return html`<h1>Engines</h1>
    <${List} path="/v1/engines" kinds=${["engine."]} states=${states("engine")} nothing=${"There are none. Try: warmboot engine create ci"}>
      ${(items) => html`<table class="list">
        <thead><tr><th>Name</th><th>Status</th><th>Boot</th><th>Shape</th><th>Created</th><th>Ports</th></tr></thead>
        <tbody>
          ${items.map(
            (one) => html`<tr key=${one.id}>
              <td data-name="Name"><a href=${link("engines", one.id)}>${one.name}</a></td>
              <td data-name="Status"><${Badge} of=${one}>${status(one, at)}</${Badge}></td>
              <td data-name="Boot">${one.boot_method} ${seconds(one.boot_s)}</td>
              <td data-name="Shape">${shape(one.shape)}</td>
              <td data-name="Created">${ago(one.created_at, at)}</td>
              <td data-name="Ports"><${Ports} of=${one.ports} /></td>
            </tr>`,
          )}
        </tbody>
      </table>`}
    </${List}>`;
}

async function load(id, stop) {
  const { item } = await get(`/v1/engines/${encoded(id)}`, stop);
  const disk = await get(`/v1/engines/${encoded(item.id)}/disk`, stop).catch((problem) => {
    if (stop.aborted) throw problem;
    return { item: null }; // it may be parked, or just going: the rest is shown
  });
  return { one: item, disk: disk.item };
}

export function Engine({ id }) {
  const at = useNow();
  const shown = useLive((stop) => load(id, stop), ["engine."], id);
  if (!shown.data) return html`<h1>Engine ${id}</h1><${Told} problem=${shown.problem} /><${Loading} of=${shown} />`;
  const { one, disk } = shown.data;
  return html`<p class="crumbs"><a href=${link("engines")}>Engines</a></p>
    <h1>${one.name} <${Badge} of=${one}>${status(one, at)}</${Badge}></h1>
    <${Told} problem=${shown.problem ?? one.error} />
    <${Verbs} noun="engine" of=${one} />
    <${Facts} of=${[
      ["Id", html`<code>${one.id}</code>`],
      ["Docker", html`<${Command} text=${`export DOCKER_HOST=${one.docker_host}`} />`],
      ["Address", one.address],
      ["Over TCP", one.tcp && `${one.tcp.address}:${one.tcp.port}`],
      ["Ports", one.ports.length > 0 && html`<${Ports} of=${one.ports} />`],
      ["Shape", shape(one.shape)],
      ["Disk", disk && `${size(disk.stored_bytes)} on this machine${disk.size_bytes === null ? "" : `; ${size(disk.used_bytes)} used of ${size(disk.size_bytes)} inside`}`],
      ["Created", ago(one.created_at, at)],
      ["Started", one.started_at && ago(one.started_at, at)],
      ["Is removed", one.expires_at && new Date(one.expires_at).toLocaleString()],
      ["VM", one.vm_id && html`<code>${one.vm_id}</code>`],
      ...bootFacts(one),
      ...givenFacts(one),
    ]} />
    <${Section} title="How it was started"><${Waterfall} stages=${one.stages} /><${Attempts} of=${one} /></${Section}>`;
}
