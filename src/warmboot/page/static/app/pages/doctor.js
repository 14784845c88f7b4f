/* What works on this machine, what does not, why, and what to do. */
import { get } from "../api.js";
import { html, useState } from "../dom.js";
import { useLive } from "../live.js";
import { Loading, Told, Commands } from "../parts.js";

export function Doctor() {
  const [times, again] = useState(0);
  const shown = useLive((stop) => get("/v1/doctor", stop), [], String(times));
  const checks = shown.data?.items ?? [];
  const sorted = [...checks].sort((a, b) => a.ok - b.ok || b.required - a.required);
  return html`<h1>Doctor</h1>
    <p class="buttons"><button type="button" disabled=${!shown.data && !shown.problem} onClick=${() => again(times + 1)}>Look again</button></p>
    <${Told} problem=${shown.problem} />
    ${!shown.data && html`<${Loading} of=${shown} />`}
    <ul class="attention">
      ${sorted.map(
        (one) => html`<li key=${one.name}>
          <p><span class=${`badge ${one.ok ? "good" : one.required ? "bad" : "busy"}`}>${one.ok ? "works" : one.required ? "does not work" : "not there"}</span>
            <strong>${one.name}</strong>: ${one.summary}</p>
          ${!one.ok && html`<p class="quiet-text">${one.why}</p>`}
          ${!one.ok && one.remedy && html`<p>Next: <${Commands} text=${one.remedy} /></p>`}
        </li>`,
      )}
    </ul>`;
}
