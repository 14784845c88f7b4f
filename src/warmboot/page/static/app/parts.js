/* Small parts of which the pages are made. */
import { html, useState } from "./dom.js";
import { tone } from "./format.js";

export const Badge = ({ of, children }) => html`<span class="badge ${tone(of)}">${children ?? of.state}</span>`;

/** An error of the API's: what, why, and what to do. */
export function Told({ problem }) {
  if (!problem) return null;
  return html`<div class="problem" role="alert">
    <p><strong>${problem.title ?? problem.brief ?? problem.message}</strong></p>
    ${(problem.detail ?? problem.details) && html`<p>${problem.detail ?? problem.details}</p>`}
    ${problem.resolution && html`<p class="next">Next: <${Commands} text=${problem.resolution} /></p>`}
  </div>`;
}

/** Text in which what stands between backquotes can be copied. */
export const Commands = ({ text }) =>
  text.split("`").map((part, index) => (index % 2 ? html`<${Command} text=${part} />` : part));

export function Command({ text }) {
  const [copied, say] = useState("");
  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      say("copied");
    } catch {
      say("select it, and copy it by hand");
    }
    setTimeout(() => say(""), 2000);
  }
  return html`<span class="command"><code>${text}</code
    ><button type="button" class="small" onClick=${copy} aria-label=${`Copy ${text}`}>Copy</button
    ><span role="status" class="quiet-text">${copied}</span></span>`;
}

export const Section = ({ title, more, children }) => html`<section>
  <header class="section"><h2>${title}</h2>${more}</header>
  ${children}
</section>`;

/** What is shown before there is anything to show. */
export const Loading = ({ of }) => (of.problem ? null : html`<p class="quiet-text" aria-busy="true">Loading…</p>`);

/** A used part of a whole, with a mark at a limit. */
export function Meter({ label, value, whole, limit, told }) {
  const percent = whole > 0 ? Math.min(100, (100 * value) / whole) : 0;
  const beyond = limit !== undefined && value > limit;
  return html`<div class="meter">
    <div class="meter-label"><span>${label}</span><span>${told}</span></div>
    <div class="bar" role="meter" aria-label=${label} aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(percent)} aria-valuetext=${told}>
      <div class=${beyond ? "fill bad" : "fill"} style=${{ width: `${percent}%` }}></div>
      ${limit !== undefined && html`<div class="limit" style=${{ left: `${(100 * limit) / whole}%` }}></div>`}
    </div>
  </div>`;
}

/** Pairs of a name and what is to be said; those of nothing are left out. */
export const Facts = ({ of }) => html`<dl class="facts">
  ${of
    .filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false)
    .map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}
</dl>`;
