/* Runtime images with their versions, and what lies on these. */
import { get } from "../api.js";
import { html } from "../dom.js";
import { ago, seconds, shape, shortId, size } from "../format.js";
import { useLive, useNow } from "../live.js";
import { Badge, Facts, Loading, Told } from "../parts.js";
import { snapshotTitle, tree } from "../registry.js";
import { Garbage, SnapshotVerbs } from "./snapshot.js";
import { act, isBusy, send } from "../actions.js";
import { Button } from "../buttons.js";

async function load(stop) {
  const [images, snapshots] = await Promise.all([get("/v1/runtime-images", stop), get("/v1/runtime-snapshots", stop)]);
  return tree(images.items, snapshots.items);
}

export function Registry() {
  const shown = useLive(load, ["runtime-image.", "runtime-snapshot."]);
  return html`<h1>Registry</h1>
    <${Told} problem=${shown.problem} />
    ${!shown.data && html`<${Loading} of=${shown} />`}
    ${shown.data?.length === 0 && html`<p class="quiet-text">There is no runtime image. The overview has the commands to begin with.</p>`}
    ${shown.data?.map(({ image, below }) => html`<${Image} key=${image.id} image=${image} below=${below} />`)}
    ${shown.data && html`<${Garbage} />`}`;
}

function Image({ image, below }) {
  const at = useNow();
  const busy = isBusy(image.id);
  const body = { runtime_image_id: image.id };
  const build = () => act(image.id, `Beginning to build a version of ${image.name}`, () => send("POST", "/v1/runtime-snapshots", body));
  const remove = () => act(image.id, `Removing ${image.name}`, () => send("DELETE", `/v1/runtime-images/${image.id}`));
  return html`<section class="image">
    <header class="section"><h2>${image.name}</h2><span class="buttons">
      <${Button} label="Build a version" busy=${busy} onPress=${build} />
      ${below.length === 0 && html`<${Button} label="Remove" danger busy=${busy} asks=${`Remove the runtime image ${image.name}?`} onPress=${remove} />`}
    </span></header>
    <${Told} problem=${image.damage} />
    <p class="quiet-text">runtime image ${shortId(image.id)}, ${size(image.stored_bytes)}, registered ${ago(image.created_at, at)}, guest agent ${image.agent_version}</p>
    ${below.length === 0 && html`<p class="quiet-text">It has no snapshot: containers boot cold. <code>warmboot snapshot create ${image.name}</code></p>`}
    <${Branch} of=${below} at=${at} />
  </section>`;
}

const Branch = ({ of, at }) =>
  of.length > 0 && html`<ul class="tree">${of.map(({ snapshot, below }) => html`<li key=${snapshot.id}><${Snapshot} one=${snapshot} at=${at} /><${Branch} of=${below} at=${at} /></li>`)}</ul>`;

function memory({ mem_size_bytes: plain, mem_stored_bytes: stored, compressed }) {
  if (plain === undefined) return null;
  return compressed ? `${size(stored)} compressed, ${size(plain)} plain` : `${size(stored)} stored of ${size(plain)}`;
}

function Snapshot({ one, at }) {
  const { boots, failures, boot_s } = one.stats;
  return html`<details class="snapshot" open=${one.error !== null}>
    <summary>
      <strong>${snapshotTitle(one)}</strong> <${Badge} of=${one} />
      ${one.pinned && html`<span class="badge quiet">pinned</span>`}
      ${one.state === "ready" && !one.usable && html`<span class="badge bad">not usable here</span>`}
      <span class="quiet-text">${shape(one.shape)}${one.depth === "runtime" && one.weight !== 100 ? `, weight ${one.weight}` : ""}${one.stored_bytes === null ? "" : `, ${size(one.stored_bytes)}`}${boot_s.median === null ? "" : `, boots in ${seconds(boot_s.median)}`}</span>
    </summary>
    <${Told} problem=${one.error} />
    <${SnapshotVerbs} one=${one} />
    <${Facts} of=${[
      ["Id", html`<code>${one.id}</code>`],
      ["Not usable because", !one.usable && one.state === "ready" && one.unusable_because],
      ["Begun", `${ago(one.created_at, at)} (${one.cause})`],
      ["Last used", ago(one.last_used_at, at)],
      ["Weight", one.depth === "runtime" && String(one.weight)],
      ["On disk", size(one.stored_bytes)],
      ["Memory", memory(one.metadata)],
      ["Boots", `${boots}, of which ${failures} failed`],
      ["Boot time", boot_s.count > 0 && `median ${seconds(boot_s.median)}, mean ${seconds(boot_s.mean)}`],
      ["Its own cold boot", seconds(one.metadata.cold_boot_s)],
      ["Canary", one.metadata.canary && `booted in ${seconds(one.metadata.canary.boot_s)}, ran a container in ${seconds(one.metadata.canary.run_s)}`],
      ["Hypervisor", `${one.hypervisor} ${one.fc_version}`],
      ["Replaces", one.replaces && shortId(one.replaces)],
      ["Rebuilt not before", one.rebuild_not_before && new Date(one.rebuild_not_before).toLocaleString()],
    ]} />
  </details>`;
}
