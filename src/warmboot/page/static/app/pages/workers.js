/* Workers: the list, and one of them with where it stands and its checkpoints. */
import { act, isBusy, send } from "../actions.js";
import { encoded, get } from "../api.js";
import { Button, Verbs } from "../buttons.js";
import { html } from "../dom.js";
import { age, ago, seconds, size, workerStatus } from "../format.js";
import { List } from "../list.js";
import { useLive, useNow } from "../live.js";
import { Log } from "../log.js";
import { Badge, Facts, Loading, Section, Told } from "../parts.js";
import { link } from "../router.js";
import { states } from "../verbs.js";

export function Workers() {
  const at = useNow();
  return html`<h1>Workers</h1>
    <${List} path="/v1/workers" kinds=${["worker."]} states=${states("worker")} nothing=${"There are none. Try: warmboot worker run --help"}>
      ${(items) => html`<table class="list">
        <thead><tr><th>Name</th><th>Image</th><th>Status</th><th>Created</th></tr></thead>
        <tbody>
          ${items.map(
            (one) => html`<tr key=${one.id}>
              <td data-name="Name"><a href=${link("workers", one.id)}>${one.name}</a></td>
              <td data-name="Image">${one.image}</td>
              <td data-name="Status"><${Badge} of=${one}>${workerStatus(one, at)}</${Badge}></td>
              <td data-name="Created">${ago(one.created_at, at)}</td>
            </tr>`,
          )}
        </tbody>
      </table>`}
    </${List}>`;
}

async function load(id, stop) {
  const { item } = await get(`/v1/workers/${encoded(id)}`, stop);
  const { items } = await get(`/v1/workers/${encoded(item.id)}/checkpoints`, stop);
  return { one: item, checkpoints: items };
}

// The way round, and what leads out of it; the API's reference has all of it.
const ROUND = ["running", "pausing", "paused", "resuming"];
const BESIDE = ["creating", "checkpointing", "exited", "failed", "deleting"];

const Stands = ({ state }) => {
  const chip = (name) => html`<span key=${name} class=${name === state ? "badge good" : "badge"} aria-current=${name === state ? "step" : undefined}>${name}</span>`;
  return html`<p class="round" aria-label=${`It is ${state}`}>${ROUND.map((name) => [chip(name), html`<span aria-hidden="true">→ </span>`])} running</p>
    ${BESIDE.includes(state) && html`<p>${chip(state)}</p>`}`;
};

export function Worker({ id }) {
  const at = useNow();
  const shown = useLive((stop) => load(id, stop), ["worker."], id);
  if (!shown.data) return html`<h1>Worker ${id}</h1><${Told} problem=${shown.problem} /><${Loading} of=${shown} />`;
  const { one, checkpoints } = shown.data;
  const { policy } = one;
  return html`<p class="crumbs"><a href=${link("workers")}>Workers</a></p>
    <h1>${one.name} <${Badge} of=${one}>${workerStatus(one, at)}</${Badge}></h1>
    <${Told} problem=${shown.problem ?? one.error} />
    <${Verbs} noun="worker" of=${one} />
    <${Stands} state=${one.state} />
    <${Facts} of=${[
      ["Id", html`<code>${one.id}</code>`],
      ["Image", one.image],
      ["Command", [...(one.entrypoint ?? []), ...(one.command ?? [])].join(" ")],
      ["Created", ago(one.created_at, at)],
      ["Paused", one.paused_at && ago(one.paused_at, at)],
      ["Resumed", one.resumed_at && ago(one.resumed_at, at)],
      ["Heard of", one.heard_at && ago(one.heard_at, at)],
      ["Exit code", one.exit_code],
      ["Network", one.network],
      ["Mounts", one.mounts.map((mount) => `${mount.source} at ${mount.target}${mount.read_only ? " (read-only)" : ""}`).join(", ")],
      ["Pauses itself", policy.pause_after_idle_s !== null && `after ${age(policy.pause_after_idle_s)} without work`],
      ["Checkpoints", policy.checkpoint_every_s !== null && `every ${age(policy.checkpoint_every_s)}`],
      ["Wakes", policy.wake_on.length > 0 && `when somebody connects to ${policy.wake_on.join(", ")}`],
    ]} />
    <${Section} title="Checkpoints">
      ${checkpoints.length === 0 && html`<p class="quiet-text">There are none.</p>`}
      ${checkpoints.length > 0 && html`<${Checkpoints} of=${checkpoints} worker=${one} at=${at} />`}
    </${Section}>
    ${one.docker_id && one.state !== "creating" && html`<${Section} title="Output"><${Log} path=${`/v1/workers/${one.id}/logs`} key_=${`${one.docker_id} ${one.resumed_at}`} /></${Section}>`}
    <p class="quiet-text">A checkpoint as a file: <code>warmboot worker export ${one.name}</code>.</p>`;
}

function Checkpoints({ of, worker, at }) {
  const way = `/v1/workers/${encoded(worker.id)}`;
  const busy = isBusy(worker.id);
  const drop = (one) => act(worker.id, `Deleting checkpoint ${one.name}`, () => send("DELETE", `${way}/checkpoints/${encoded(one.name)}`));
  const resume = (one) => act(worker.id, `Resuming ${worker.name} from ${one.name}`, () => send("POST", `${way}/resume`, { checkpoint: one.name }));
  return html`<table class="list">
    <thead><tr><th>Name</th><th>State</th><th>Size</th><th>Made</th><th>Took</th><th>What can be done</th></tr></thead>
    <tbody>
      ${of.map(
        (one) => html`<tr key=${one.id}>
          <td data-name="Name">${one.name}${one.id === worker.paused_into && " (paused into it)"}</td>
          <td data-name="State"><${Badge} of=${one} /></td>
          <td data-name="Size">${size(one.size_bytes)}${one.stored_bytes === null ? "" : `, ${size(one.stored_bytes)} on disk`}</td>
          <td data-name="Made">${ago(one.created_at, at)}${one.automatic && ", by itself"}</td>
          <td data-name="Took">${seconds(one.duration_s)}</td>
          <td><span class="buttons">
            ${["paused", "exited", "failed"].includes(worker.state) && one.state === "ready" && html`<${Button} label="Resume from it" busy=${busy} onPress=${() => resume(one)} />`}
            <${Button} label="Delete" danger busy=${busy} asks=${`Delete the checkpoint ${one.name}?`} onPress=${() => drop(one)} />
          </span></td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}
