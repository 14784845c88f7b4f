/* What can be done with a snapshot, and with all that may go. */
import { act, isBusy, send } from "../actions.js";
import { Button } from "../buttons.js";
import { html, useEffect, useState } from "../dom.js";
import { shortId, size } from "../format.js";
import { snapshotTitle } from "../registry.js";

const WAY = "/v1/runtime-snapshots";

export function SnapshotVerbs({ one }) {
  const busy = isBusy(one.id);
  const name = `${snapshotTitle(one)} (${shortId(one.id)})`;
  const way = `${WAY}/${one.id}`;
  const press = (doing, method, path, body) => act(one.id, `${doing} ${name}`, () => send(method, way + path, body));
  const ready = one.state === "ready";
  const version = one.depth === "runtime";
  return html`<p class="buttons" role="group" aria-label=${`What can be done with ${name}`}>
    ${version && (ready || one.state === "unhealthy") && html`<${Button} label="Rebuild" busy=${busy} onPress=${() => press("Beginning to rebuild", "POST", "/rebuild")} />`}
    ${version && ready && html`<${Weight} one=${one} busy=${busy} onSet=${(weight) => press("Setting the weight of", "PATCH", "", { weight })} />`}
    ${ready && html`<${Button} label=${one.pinned ? "Unpin" : "Pin"} busy=${busy}
      onPress=${() => press(one.pinned ? "Unpinning" : "Pinning", "PATCH", "", { pinned: !one.pinned })} />`}
    ${ready && (one.metadata.compressed
      ? html`<${Button} label="Unpack" busy=${busy} onPress=${() => press("Beginning to unpack", "POST", "/unpack")} />`
      : html`<${Button} label="Compress" busy=${busy} onPress=${() => press("Beginning to compress", "POST", "/compress")} />`)}
    ${one.state !== "deleted" && html`<${Button} label="Delete" danger busy=${busy} asks=${`Delete ${name}? Its files go when no VM maps them.`}
      onPress=${() => press("Deleting", "DELETE", "")} />`}
  </p>`;
}

function Weight({ one, busy, onSet }) {
  const [typed, type] = useState(String(one.weight));
  useEffect(() => type(String(one.weight)), [one.weight]);
  const changed = typed !== String(one.weight);
  return html`<form class="weight" onSubmit=${(event) => (event.preventDefault(), changed && onSet(Number(typed)))}>
    <label>Weight <input type="number" min="0" max="100" step="any" required value=${typed} onInput=${(event) => type(event.target.value)} /></label>
    ${changed && html`<button type="submit" disabled=${busy}>Set</button>`}
  </form>`;
}

/** What a garbage collection would remove is shown before it does. */
export function Garbage() {
  const [found, show] = useState(null);
  const busy = isBusy("garbage");
  const collect = (dry_run, doing) => act("garbage", doing, () => send("POST", "/v1/gc", { dry_run }));
  const look = async () => show((await collect(true, "Looking for what may go"))?.item ?? null);
  const remove = async () => {
    const done = await collect(false, "Collecting garbage");
    if (done) show(done.item.kept.length > 0 ? { ...done.item, removed: null } : null);
  };
  return html`<section>
    <header class="section"><h2>Garbage</h2></header>
    <p class="buttons"><${Button} label="Show what may go" busy=${busy} onPress=${look} /></p>
    ${found?.removed?.length === 0 && html`<p>Nothing may go.</p>`}
    ${found?.removed?.length > 0 &&
    html`<ul>${found.removed.map((one) => html`<li key=${one.kind + one.name}>${one.kind} ${one.name}: ${one.reason}, ${size(one.size_bytes)}</li>`)}</ul>
      <p class="buttons"><${Button} label=${`Remove ${found.removed.length}, which frees ${size(found.freed_bytes)}`} danger busy=${busy} onPress=${remove} /></p>`}
    ${found?.kept.length > 0 && html`<p class="quiet-text">In use, and kept: ${found.kept.map((one) => `${one.kind} ${one.name}`).join(", ")}</p>`}
  </section>`;
}
