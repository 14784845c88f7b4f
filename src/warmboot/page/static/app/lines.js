/* Output as lines, of which the newest are kept. Pure, and tested with node. */

// What a terminal would do with these is not done here: colours and the like are left out.
const CONTROL = /\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]/g;
const MOST_CHARACTERS = 4096; // of a line: a binary without line feeds is none
const MOST_ROOM = 64 << 20;

/** Keeps `most` lines that came in `room` characters at most: a browser may keep all of what it shows a part of.
    `add(text)` takes text in any pieces; `lines` are whole but for the last; `dropped` counts those that went. */
export function lineKeeper(most, room = MOST_ROOM) {
  const kept = { lines: [], dropped: 0, add, open: false };
  const came = []; // of each line, how long it was
  let taken = 0;
  function put(text) {
    const clean = text.replace(CONTROL, "");
    const line = clean.slice(clean.lastIndexOf("\r", clean.length - 2) + 1).replace(/\r$/, "");
    return line.length > MOST_CHARACTERS ? `${line.slice(0, MOST_CHARACTERS)}…` : line;
  }
  function keep(part) {
    kept.lines.push(put(part));
    came.push(part.length);
    taken += part.length;
  }
  let raw = "";
  function add(text) {
    const parts = (raw + text).split("\n");
    raw = parts.pop();
    if (raw.length > 2 * MOST_CHARACTERS) {
      const begin = raw.lastIndexOf("\r", raw.length - 2) + 1; // what stands there now
      raw = raw.slice(begin, begin + 2 * MOST_CHARACTERS);
    }
    if (kept.open) {
      kept.lines.pop();
      taken -= came.pop();
    }
    for (const part of parts) keep(part);
    kept.open = raw !== "";
    if (kept.open) keep(raw);
    // Not at each line: to take from the front costs as much as there are.
    if (kept.lines.length <= most * 1.1 && taken <= room * 1.1) return;
    let many = Math.max(0, kept.lines.length - most);
    for (let index = 0; index < many; index += 1) taken -= came[index];
    while (taken > room && many < kept.lines.length - 1) taken -= came[many++];
    kept.lines.splice(0, many);
    came.splice(0, many);
    kept.dropped += many;
  }
  return kept;
}

/** Which of `count` rows of `height` are seen, with some above and below. */
export function seen(count, height, top, room, around = 20) {
  const first = Math.max(0, Math.floor(top / height) - around);
  return { first, last: Math.min(count, Math.ceil((top + room) / height) + around) };
}
