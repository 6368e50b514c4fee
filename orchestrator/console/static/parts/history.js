// What happened to a run, oldest first, so that what comes in never moves what an operator reads.
import { component, html } from "../core/component.js";
import { Empty, When } from "./pieces.js";
import { signal } from "../core/vendor.js";
import { happening } from "./words.js";

const MOST = 200;

export const History = component(() => {
  const all = signal(false);
  return ({ entries, removed }) => {
    const gone = removed && html`<${Empty}>Retention removed what happened before
      <${When} at=${removed.at} />.<//>`;
    if (entries.length === 0) return gone || html`<${Empty}>Nothing is known yet.<//>`;
    const shown = all.value ? entries : entries.slice(-MOST);
    const hidden = entries.length - shown.length;
    return html`
      ${gone}
      ${hidden > 0 && html`<button class="button" onClick=${() => (all.value = true)}>
        Show ${hidden} earlier lines</button>`}
      <table class="history cards">
        <thead><tr><th>No.</th><th>When</th><th>What</th><th>Step</th><th>Detail</th></tr></thead>
        <tbody>${shown.map(row)}</tbody>
      </table>`;
  };
});

function row(entry) {
  const { word, tone } = happening(entry);
  return html`
    <tr key=${entry.number} data-happening=${entry.happening}>
      <td class="number quiet">${entry.number}</td>
      <td class="number"><${When} at=${entry.at} fine /></td>
      <td><span class="word tone-${tone}">${word}</span></td>
      <td>${entry.step ?? ""}</td>
      <td class="main detail" title=${entry.command_id && `command ${entry.command_id}`}>
        ${entry.actor && html`<strong>${entry.actor}: </strong>`}${entry.detail}</td>
    </tr>`;
}
