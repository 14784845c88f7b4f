/* Stages of a boot, each where it began. */
import { waterfall } from "./boots.js";
import { html } from "./dom.js";
import { seconds } from "./format.js";

export function Waterfall({ stages, title = "Stages" }) {
  const { whole_s, rows } = waterfall(stages);
  if (!rows.length) return html`<p class="quiet-text">It has no stages yet.</p>`;
  return html`<table class="waterfall">
    <caption>${title}: ${seconds(whole_s)} in all</caption>
    <tbody>
      ${rows.map(
        (row, index) => html`<tr key=${index}>
          <th scope="row">${row.name}</th>
          <td class="track">
            <div class="stage" style=${{ marginLeft: `${row.left}%`, width: `${row.width}%` }}></div>
            ${row.steps.length > 0 &&
            html`<div class="quiet-text steps">${row.steps.map((one) => `${one.name} ${seconds(one.duration_s)}`).join(", ")}</div>`}
          </td>
          <td class="number">${seconds(row.seconds)}</td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}
