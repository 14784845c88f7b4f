/* What runs, how it was booted, what it takes, and what needs attention. */
import { get, getText, query } from "../api.js";
import { Verbs } from "../buttons.js";
import { coldReasons, oneAfterTheOther, reasonInWords, saved } from "../boots.js";
import { html, useEffect, useState } from "../dom.js";
import { onEvent } from "../events.js";
import { ago, seconds, shortId, size } from "../format.js";
import { merged } from "../journal.js";
import { useLive, useNow } from "../live.js";
import { gauges } from "../metrics.js";
import { Badge, Command, Loading, Meter, Section, Told } from "../parts.js";
import { link } from "../router.js";
import { Waterfall } from "../waterfall.js";
import { SnapshotVerbs } from "./snapshot.js";

const HOUR_S = 3600;
const SHOWN_BOOTS = 4;
const MOST_EVENTS = 10_000; // so many are kept
const A_PART = 1000;
// All that is measured anew costs the manager something with each VM.
const AT_MOST_EVERY_MS = 5_000;
// The disk fills, boots are of an earlier hour, and checks fail without an event.
const AT_LEAST_EVERY_MS = 60_000;
const BOOTED = ["container.booted", "engine.booted"];

async function loadBoots(stop) {
  const found = [];
  for (let cursor = ""; cursor !== undefined && found.length < MOST_EVENTS; ) {
    const part = await get(query("/v1/events", { kind: BOOTED, limit: A_PART, cursor }), stop);
    found.push(...part.items);
    cursor = part.next_cursor;
  }
  return found;
}

const listOf = async (path, wanted, stop) => (await get(query(path, wanted), stop)).items;
const itemOf = async (path, stop) => (await get(path, stop)).item;

async function loadCounts(stop) {
  const [counts, info, images] = await Promise.all([
    getText("/metrics", stop),
    itemOf("/v1/info", stop),
    listOf("/v1/runtime-images", { limit: 1 }, stop),
  ]);
  return { counts: gauges(counts), info, images };
}

async function loadTrouble(stop) {
  let more = false;
  const list = async (path, wanted) => {
    const part = await get(query(path, wanted), stop);
    more ||= part.next_cursor !== undefined;
    return part.items;
  };
  const [failed, running] = [{ limit: 20, state: "failed" }, { limit: 200, state: "running" }];
  const [containers, some, engines, others, workers, snapshots, checks] = await Promise.all([
    list("/v1/containers", failed),
    list("/v1/containers", running),
    list("/v1/engines", failed),
    list("/v1/engines", running),
    list("/v1/workers", failed).catch((problem) => {
      if (stop.aborted || !problem.status) throw problem;
      return []; // there is no Docker on this host: the doctor says so
    }),
    list("/v1/runtime-snapshots", { limit: 20, state: "unhealthy" }),
    list("/v1/doctor", {}),
  ]);
  const ill = (one) => one.error || one.answering === false || one.health === "unhealthy";
  return {
    containers: [...containers, ...some.filter(ill)],
    engines: [...engines, ...others.filter(ill)],
    workers,
    snapshots,
    checks: checks.filter((one) => !one.ok && one.required),
    more,
  };
}

const useSlowly = (load, kinds) => useLive(load, kinds, "", AT_MOST_EVERY_MS, AT_LEAST_EVERY_MS);

/** Boots of the last hour: loaded once, and then as they come. */
function useBoots() {
  const at = useNow();
  const loaded = useLive(loadBoots, []);
  const [came, add] = useState([]);
  useEffect(() => onEvent((event) => BOOTED.includes(event.kind) && add((before) => merged(before, [event], MOST_EVENTS))), []);
  const all = loaded.data && merged(loaded.data, came, MOST_EVENTS);
  return { at, problem: loaded.problem, boots: all?.filter((one) => at - Date.parse(one.at) < HOUR_S * 1000) };
}

export function Overview() {
  const counted = useSlowly(loadCounts, ["container.", "engine.", "worker.", "runtime-image."]);
  const used = useSlowly((stop) => itemOf(`/v1/system/usage?window_s=${HOUR_S}`, stop), ["container.", "engine."]);
  const trouble = useSlowly(loadTrouble, ["container.", "engine.", "worker.", "runtime-snapshot.", "network."]);
  const { boots, at, problem } = useBoots();
  const has = (metric) => Object.values(counted.data?.counts[metric] ?? {}).some((count) => count > 0);
  const empty = counted.data && !(counted.data.images.length && (has("warmboot_containers") || has("warmboot_engines")));
  return html`<h1>Overview</h1>
    <${Told} problem=${counted.problem ?? used.problem ?? trouble.problem ?? problem} />
    ${!counted.data && html`<${Loading} of=${counted} />`}
    ${empty && html`<${Begin} images=${counted.data.images} />`}
    <${Attention} of=${trouble} />
    ${counted.data && html`<${Runs} ...${counted.data} />`}
    ${used.data && boots && html`<${Boots} usage=${used.data} boots=${boots} at=${at} />`}
    ${used.data && html`<${Limits} usage=${used.data} />`}`;
}

function Begin({ images }) {
  const commands = [
    ["warmboot runtime build", "builds a runtime image: a kernel, and a root file system with Docker in it"],
    ["warmboot runtime register --name debian FOLDER", "with the folder that the first command named; its snapshot is built at once"],
    ["warmboot run --rm alpine echo hello", "runs a container in a VM that is restored from the snapshot"],
  ];
  return html`<${Section} title=${images.length ? "Nothing runs yet" : "To begin with"}>
    <ol class="begin">
      ${(images.length ? commands.slice(2) : commands).map(
        ([text, why]) => html`<li key=${text}><${Command} text=${text} /><p class="quiet-text">${why}</p></li>`,
      )}
    </ol>
  </${Section}>`;
}

function Attention({ of }) {
  if (!of.data) return null;
  const { containers, engines, workers, snapshots, checks, more } = of.data;
  const things = [
    ...containers.map((one) => ["container", one.name, link("containers", one.id), one]),
    ...engines.map((one) => ["engine", one.name, link("engines", one.id), one]),
    ...workers.map((one) => ["worker", one.name, link("workers", one.id), one]),
    ...snapshots.map((one) => ["snapshot", shortId(one.id), link("registry"), one]),
  ];
  if (!things.length && !checks.length) {
    return html`<p class="well"><span class="badge good">well</span> Nothing needs attention${more && " among the newest 200 that run"}.</p>`;
  }
  return html`<${Section} title="Needs attention">
    <ul class="attention">
      ${things.map(
        ([noun, name, to, one]) => html`<li key=${to + name}>
          <p>${noun} <a href=${to}>${name}</a> <${Badge} of=${one}>${one.health === "unhealthy" ? "unhealthy" : one.state}</${Badge}></p>
          <${Told} problem=${one.error} />
          ${noun === "snapshot" ? html`<${SnapshotVerbs} one=${one} />` : html`<${Verbs} noun=${noun} of=${one} />`}
        </li>`,
      )}
      ${checks.map(
        (one) => html`<li key=${one.name}>
          <p>this machine: ${one.name}</p>
          <${Told} problem=${{ title: one.summary, detail: one.why, resolution: one.remedy }} />
        </li>`,
      )}
    </ul>
    ${more && html`<p class="quiet-text">The newest are shown here: the lists have the others.</p>`}
  </${Section}>`;
}

function Runs({ counts, info }) {
  const tiles = ["containers", "engines", "workers"].map((noun) => {
    const states = Object.entries(counts[`warmboot_${noun}`] ?? {}).filter(([, count]) => count > 0);
    return html`<div class="tile" key=${noun}>
      <h3><a href=${link(noun)}>${noun.charAt(0).toUpperCase() + noun.slice(1)}</a></h3>
      ${states.length === 0 && html`<p class="quiet-text">none</p>`}
      ${states.map(([label, count]) => {
        const state = label.split('"')[1];
        return html`<p key=${label}><a href=${`${link(noun)}?state=${state}`}><strong>${count}</strong> ${state}</a></p>`;
      })}
    </div>`;
  });
  const pool = info.warm_pool;
  return html`<${Section} title="What runs">
    <div class="tiles">
      ${tiles}
      ${pool.max > 0 && html`<div class="tile"><h3>Warm pool</h3><p><strong>${pool.ready}</strong> of ${pool.size} VMs are ready</p>${pool.memory_short && html`<p class="quiet-text">memory is short</p>`}</div>`}
    </div>
    <p class="quiet-text">warmboot ${info.version} on ${info.hypervisor} ${info.hypervisor_version} (${info.accelerator})</p>
  </${Section}>`;
}

function Boots({ usage, boots, at }) {
  const { warm, cold } = usage.boots;
  const methods = [["warm", warm], ["cold", cold]].filter(([, told]) => told?.count);
  const gained = saved(boots);
  return html`<${Section} title="Boots of the last hour">
    ${methods.length === 0 && html`<p class="quiet-text">There were none.</p>`}
    <div class="tiles">
      ${methods.map(
        ([method, told]) => html`<div class="tile" key=${method}>
          <h3>${method}</h3>
          <p><strong>${told.count}</strong> boot${told.count > 1 ? "s" : ""}</p>
          <p>median ${seconds(told.median_s)}, longest ${seconds(told.max_s)}</p>
          ${coldReasons(told.reasons).map(([reason, count]) => html`<p key=${reason}>${count} because ${reasonInWords(reason)}</p>`)}
        </div>`,
      )}
      ${gained > 0 && html`<div class="tile"><h3>Time saved</h3><p><strong>${seconds(gained)}</strong></p><p class="quiet-text">against the measured cold boots of the snapshots</p></div>`}
    </div>
    <div class="pictures">
      ${boots
        .slice(-SHOWN_BOOTS)
        .reverse()
        .map(({ id, kind, at: when, subject_id, data }) => {
          const noun = kind.startsWith("engine") ? "engine" : "container";
          return html`<div class="picture" key=${id}>
            <p><a href=${link(`${noun}s`, subject_id)}>${noun} ${shortId(subject_id)}</a> ${data.boot_method}, ${ago(when, at)}</p>
            <${Waterfall} stages=${oneAfterTheOther(data.stages)} title="Until Docker answered" />
          </div>`;
        })}
    </div>
  </${Section}>`;
}

function Limits({ usage }) {
  const { total_bytes, free_bytes, floor_bytes } = usage.storage;
  const used = total_bytes - free_bytes;
  const memory = usage.vms.reduce((sum, one) => sum + one.memory_bytes, 0);
  return html`<${Section} title="Memory and disk">
    <${Meter} label="Disk" value=${used} whole=${total_bytes} limit=${total_bytes - floor_bytes}
      told=${`${size(free_bytes)} free of ${size(total_bytes)}; nothing new is begun below ${size(floor_bytes)}`} />
    <p>Memory: <strong>${size(memory)}</strong> in ${usage.vms.length} VM${usage.vms.length === 1 ? "" : "s"}, what they share counted once.</p>
  </${Section}>`;
}
