/* Lists of events. Pure, and tested with node. */

/** The id of the newest event, 0 if there is none. `firstAfter(id)` gives the first id after that one, or
    null: the ids are consecutive, so it is looked for by halving. */
export async function newestId(firstAfter) {
  let known = await firstAfter(0);
  if (known === null) return 0;
  let step = 1024;
  for (let next; (next = await firstAfter(known + step - 1)) !== null; step *= 2) known = next;
  let beyond = known + step;
  while (beyond - known > 1) {
    const middle = Math.floor((known + beyond) / 2);
    const next = await firstAfter(middle - 1);
    if (next === null) beyond = middle;
    else known = next;
  }
  return known;
}

/** Both lists, the oldest first, none twice, the newest `most` of them. */
export function merged(before, came, most) {
  const byId = new Map(before.map((one) => [one.id, one]));
  for (const one of came) byId.set(one.id, one);
  return [...byId.values()].sort((a, b) => a.id - b.id).slice(-most);
}

/** What an event tells beside its error, briefly: `boot_method=warm seconds=0.4`. Stages are left to the picture. */
export function brief(data) {
  return Object.entries(data)
    .filter(([name, value]) => !["error", "stages"].includes(name) && value !== null && value !== "")
    .map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`)
    .join(" ");
}

/** Whether all words of `wanted` are in what the event tells. */
export function matches(event, wanted) {
  const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return true;
  const told = `${event.kind} ${event.subject_id} ${JSON.stringify(event.data)}`.toLowerCase();
  return words.every((word) => told.includes(word));
}
