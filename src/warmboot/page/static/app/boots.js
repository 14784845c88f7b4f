/* What is made of boots: rows of a waterfall, and what an hour's boots come to. Pure, tested with node. */

/** Stages with where each begins and how long it is, as percents of the whole; `whole_s` in seconds. */
export function waterfall(stages) {
  const whole_s = Math.max(0, ...stages.map((one) => one.started_s + one.duration_s));
  const percent = (value) => (whole_s > 0 ? (100 * value) / whole_s : 0);
  const rows = stages.map((one) => ({
    name: one.name,
    seconds: one.duration_s,
    left: percent(one.started_s),
    width: percent(one.duration_s),
    steps: one.steps ?? [],
  }));
  return { whole_s, rows };
}

/** An event's stages, which have no beginnings, one after the other. */
export function oneAfterTheOther(stages) {
  let started_s = 0;
  return stages.map(({ name, seconds }) => {
    const row = { name, started_s, duration_s: seconds, steps: [] };
    started_s += seconds;
    return row;
  });
}

/** Seconds that warm boots took less than the cold boots they stand for; those not measured count for nothing. */
export function saved(booted) {
  return booted.reduce((sum, { data }) => {
    const measured = data.boot_method === "warm" && typeof data.cold_boot_s === "number";
    return measured ? sum + Math.max(0, data.cold_boot_s - data.seconds) : sum;
  }, 0);
}

/** How many were cold for which reason, the most frequent first. */
export function coldReasons(reasons) {
  return Object.entries(reasons ?? {}).sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
}

const PHRASES = {
  no_snapshot: "no runtime snapshot available",
  snapshot_unhealthy: "the runtime snapshot is unhealthy",
  snapshot_wait_timeout: "the runtime snapshot did not become ready in time",
  version_mismatch: "hypervisor version mismatch",
  host_mismatch: "the runtime snapshot was made on another kind of host",
  shape_mismatch: "no runtime snapshot has this shape",
  snapshot_damaged: "the runtime snapshot is damaged",
  restore_failed: "the restore failed",
  docker_not_verified: "Docker did not answer after the restore",
  requested: "a cold boot was asked for",
  keeps_disk: "the disk of its earlier VM is kept",
};

export const reasonInWords = (reason) => PHRASES[reason] ?? reason.replaceAll("_", " ");
