/* What containers and engines tell alike: of their boot, and what they were given. */
import { html } from "../dom.js";
import { seconds, shortId } from "../format.js";
import { link } from "../router.js";

export const bootFacts = (one) => [
  ["Boot", one.boot_method && `${one.boot_method}, ${seconds(one.boot_s)}`],
  ["Cold because", one.fallback_message && [one.fallback_message, one.fallback_details].filter(Boolean).join(": ")],
  [
    "From",
    one.runtime_snapshot_id &&
      html`<a href=${link("registry")}>snapshot ${shortId(one.runtime_snapshot_id)}</a>${one.snapshot_version ? `, version ${one.snapshot_version}` : ""}`,
  ],
];

export const givenFacts = (one) => [
  ["Labels", Object.entries(one.labels).map(([name, text]) => `${name}=${text}`).join(", ")],
  ["Folders", one.folders.map((folder) => `${folder.path}${folder.read_only ? " (read-only)" : ""}`).join(", ")],
];

const tried = (one) => (one.version ? `version ${one.version}` : `snapshot ${shortId(one.snapshot_id)}`);

/** Snapshots that were tried before. */
export function Attempts({ of }) {
  if (!of.boot_attempts.length) return null;
  return html`<h3>Tried before</h3>
    <ul>${of.boot_attempts.map((one) => html`<li key=${one.snapshot_id}>${tried(one)}: ${one.message}${one.details && ` (${one.details})`}</li>`)}</ul>`;
}
