// The services that this node sends to, and how their addresses stand.
import { get } from "../core/api.js";
import { component, html } from "../core/component.js";
import { Empty, Trouble } from "../parts/pieces.js";
import { every } from "../core/polling.js";
import { entitle } from "../core/routes.js";
import { batch, signal } from "../core/vendor.js";

const EACH = 3_000;
const STATE = { usable: "usable", ejected: "left out", stranger: "another database" };

export const ParticipantsPage = component((_, cleanup) => {
  entitle("Participants");
  const all = signal(null);
  const trouble = signal(null);

  async function load() {
    try {
      const { items } = await get(["participants"]);
      batch(() => {
        all.value = items;
        trouble.value = null;
      });
    } catch (error) {
      trouble.value = error;
    }
  }
  cleanup(every(EACH, load).stop);

  return () => html`
    <section aria-labelledby="participants-title">
      <div class="page-head"><h1 id="participants-title">Participants</h1>
        <span class="quiet">as this node sees them</span></div>
      <${Trouble} problem=${trouble.value} />
      ${all.value === null && trouble.value === null && html`<${Empty}>Looking…<//>`}
      ${all.value?.length === 0 && html`<${Empty}>This node sends to no service over a
        network.<//>`}
      ${all.value?.map((it) => html`<${Participant} key=${it.name} it=${it} />`)}
    </section>`;
});

function Participant({ it }) {
  return html`
    <h2>${it.name}</h2>
    <p class="quiet about"><span class="mono">${it.source}</span>${
      it.database && html`, database <span class="mono">${it.database}</span>`}</p>
    ${it.trouble && html`<p role="status">${it.trouble}</p>`}
    ${it.addresses.length > 0 && html`
      <table class="addresses cards">
        <thead><tr><th>Address</th><th>State</th><th>Requests</th><th>Last failure</th></tr></thead>
        <tbody>${it.addresses.map((each) => html`
          <tr key=${each.address}>
            <td class="main mono">${each.address}</td>
            <td>${STATE[each.state] ?? each.state}</td>
            <td data-label="Requests">${each.requests}</td>
            <td data-label="Last failure">${each.reason || "–"}</td>
          </tr>`)}</tbody>
      </table>`}`;
}
