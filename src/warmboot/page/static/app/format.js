/* How things are told: in the words of the command line. Pure, and tested with node. */

const UNITS = [["day", 86_400], ["hour", 3_600], ["minute", 60]];

/** `3 minutes`, of seconds. */
export function age(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  for (const [unit, length] of UNITS) {
    const count = Math.floor(whole / length);
    if (count >= (unit === "day" ? 1 : 2) || (count === 1 && unit !== "minute")) {
      return `${count} ${unit}${count > 1 ? "s" : ""}`;
    }
    if (count === 1) return "a minute";
  }
  return whole < 1 ? "under a second" : `${whole} second${whole > 1 ? "s" : ""}`;
}

/** `512.0 MiB`; nothing for null. */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return "";
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (bytes < 1024) return `${unit === "B" ? Math.round(bytes) : bytes.toFixed(1)} ${unit}`;
    bytes /= 1024;
  }
  return `${bytes.toFixed(1)} TiB`;
}

/** `4 ms`, `0.42 s`, `3.1 s`, `41 s`, `3 minutes`; nothing for null. */
export function seconds(value) {
  if (value === null || value === undefined) return "";
  if (value < 0.1) return `${Math.round(value * 1000)} ms`;
  if (value < 1) return `${value.toFixed(2)} s`;
  if (value < 10) return `${value.toFixed(1)} s`;
  return value < 120 ? `${Math.round(value)} s` : age(value);
}

export const shortId = (id) => id.slice(0, 8);

export const shape = (one) => (one ? `${one.vcpus} vCPU, ${one.memory_mib} MiB` : "");

const capital = (word) => word.charAt(0).toUpperCase() + word.slice(1);

/** Seconds from an API's time until `nowMs`; null if there is none. */
export const since = (iso, nowMs) => (iso ? (nowMs - Date.parse(iso)) / 1000 : null);

const told = (iso, nowMs) => (iso ? age(since(iso, nowMs)) : "never");

export const ago = (iso, nowMs) => (iso ? `${told(iso, nowMs)} ago` : "never");

/** What `warmboot ps` says of a container, or `warmboot engine ls` of an engine. */
export function status(one, nowMs) {
  const silent = one.answering === false ? " (Not answering)" : "";
  const health = { starting: " (health: starting)", healthy: " (healthy)", unhealthy: " (unhealthy)" }[one.health] ?? "";
  switch (one.state) {
    case "running":
      return `Up ${told(one.started_at, nowMs)}${isStalled(one) ? " (Stalled)" : silent || health}`;
    case "paused":
      return `Up ${told(one.started_at, nowMs)} (Paused)`;
    case "exited":
      return `Exited (${one.exit_code}) ${told(one.finished_at, nowMs)} ago${silent}`;
    default:
      return `${capital(one.state)}${silent}`;
  }
}

/** What `warmboot worker ls` says. */
export function workerStatus(one, nowMs) {
  if (one.state === "paused" && one.paused_at) return `paused for ${told(one.paused_at, nowMs)}`;
  if (one.state === "exited" && one.exit_code !== null) return `exited (${one.exit_code})`;
  if (one.state === "creating" && one.docker_id && !one.start) return "created, not started";
  return one.state;
}

/** Whether its VM stands still because the disk is full. */
export const isStalled = (one) => one.state === "running" && one.error?.code === "disk-full";

/** Good, busy, bad or quiet: how a state is to be coloured. */
export function tone(one) {
  if (one.state === "failed" || one.state === "unhealthy" || one.health === "unhealthy") return "bad";
  if (one.answering === false || isStalled(one) || one.damage) return "bad";
  if (["creating", "parking", "waking", "deleting", "created", "pausing", "resuming"].includes(one.state)) return "busy";
  return ["running", "ready"].includes(one.state) ? "good" : "quiet";
}

/** `8080→80/tcp`, and where it leads; null where a browser cannot go. */
export function port(one, hostname) {
  const inside = one.container_port ? `→${one.container_port}` : "";
  const label = `${one.host_port}${inside}/${one.protocol}`;
  const anywhere = ["", "0.0.0.0", "::"].includes(one.host_ip);
  const host = anywhere ? hostname : one.host_ip.includes(":") ? `[${one.host_ip}]` : one.host_ip;
  const leads = one.protocol === "tcp" && one.host_port > 0;
  return { label, url: leads ? `http://${host}:${one.host_port}/` : null };
}
