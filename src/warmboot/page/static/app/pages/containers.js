/* Containers: the list, and one of them. */
import { encoded, get } from "../api.js";
import { Verbs } from "../buttons.js";
import { html } from "../dom.js";
import { ago, port, seconds, shape, status } from "../format.js";
import { List } from "../list.js";
import { useLive, useNow } from "../live.js";
import { Log } from "../log.js";
import { Badge, Facts, Loading, Section, Told } from "../parts.js";
import { link } from "../router.js";
import { states } from "../verbs.js";
import { Waterfall } from "../waterfall.js";
import { Attempts, bootFacts, givenFacts } from "./boot.js";

// To read the output of one that is parked would wake it, and one that is paused does not answer.
const READABLE = ["running", "exited"];
const words = (list) => (list ?? []).join(" ");

export function Containers() {
  const at = useNow();
  return html`<h1>Containers</h1>
    <${List} path="/v1/containers" kinds=${["container."]} states=${states("container")} more=${{ all: true }}
      nothing=${"There are none. Try: warmboot run --rm alpine echo hello"}>
      ${(items) => html`<table class="list">
        <thead><tr><th>Name</th><th>Image</th><th>Status</th><th>Boot</th><th>Created</th><th>Ports</th></tr></thead>
        <tbody>
          ${items.map(
            (one) => html`<tr key=${one.id}>
              <td data-name="Name"><a href=${link("containers", one.id)}>${one.name}</a></td>
              <td data-name="Image">${one.image}</td>
              <td data-name="Status"><${Badge} of=${one}>${status(one, at)}</${Badge}></td>
              <td data-name="Boot">${one.boot_method} ${seconds(one.boot_s)}</td>
              <td data-name="Created">${ago(one.created_at, at)}</td>
              <td data-name="Ports"><${Ports} of=${one.ports} /></td>
            </tr>`,
          )}
        </tbody>
      </table>`}
    </${List}>`;
}

export const Ports = ({ of }) =>
  of.map((one) => {
    const { label, url } = port(one, location.hostname);
    return html`<span class="port" key=${label}>${url ? html`<a href=${url} rel="noreferrer noopener" target="_blank">${label}</a>` : label}</span>`;
  });

const item = async (id, stop) => (await get(`/v1/containers/${encoded(id)}`, stop)).item;

export function Container({ id }) {
  const at = useNow();
  const shown = useLive((stop) => item(id, stop), ["container."], id);
  const one = shown.data;
  if (!one) return html`<h1>Container ${id}</h1><${Told} problem=${shown.problem} /><${Loading} of=${shown} />`;
  return html`<p class="crumbs"><a href=${link("containers")}>Containers</a></p>
    <h1>${one.name} <${Badge} of=${one}>${status(one, at)}</${Badge}></h1>
    <${Told} problem=${shown.problem ?? one.error} />
    <${Verbs} noun="container" of=${one} />
    <${Facts} of=${[
      ["Id", html`<code>${one.id}</code>`],
      ["Image", one.image],
      ["Command", words([...(one.entrypoint ?? []), ...(one.command ?? [])])],
      ["Ports", one.ports.length > 0 && html`<${Ports} of=${one.ports} />`],
      ["Created", ago(one.created_at, at)],
      ["Started", one.started_at && ago(one.started_at, at)],
      ["Exit code", one.exit_code === null ? null : `${one.exit_code}${one.oom_killed ? ", killed for want of memory" : ""}`],
      ["Health", one.health === "none" ? null : one.health],
      ["VM", one.vm_id && html`<code>${one.vm_id}</code>, ${shape(one.shape)}`],
      ...bootFacts(one),
      ...givenFacts(one),
    ]} />
    <${Section} title="How it was started"><${Waterfall} stages=${one.stages} /><${Attempts} of=${one} /></${Section}>
    ${one.docker_id && READABLE.includes(one.state) && html`<${Section} title="Output"><${Log} path=${`/v1/containers/${one.id}/logs`} key_=${`${one.docker_id} ${one.started_at}`}
      readable=${(stop) => item(one.id, stop).then(({ state }) => READABLE.includes(state))} /></${Section}>`}
    <p class="quiet-text">A shell in it: <code>warmboot exec -it ${one.name} sh</code></p>`;
}
