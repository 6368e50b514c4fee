// Messages that were given up, and sending them again.
import { get, post } from "../core/api.js";
import { component, html } from "../core/component.js";
import { paging } from "../parts/pager.js";
import { announce, Empty, Trouble, When } from "../parts/pieces.js";
import { every } from "../core/polling.js";
import { entitle, to } from "../core/routes.js";
import { batch, signal } from "../core/vendor.js";

const EACH = 5_000;
const LIMIT = 50;

export const LettersPage = component((_, cleanup) => {
  entitle("Dead letters");
  const letters = signal(null);
  const trouble = signal(null);
  const refused = signal(null);
  const busy = signal("");
  const pages = paging(() => polling.now());

  async function load() {
    const { cursor } = pages;
    try {
      const page = await get(["dead-letters"], { limit: LIMIT, cursor });
      if (cursor !== pages.cursor) return;
      batch(() => {
        letters.value = page.items;
        pages.arrived(page);
        trouble.value = null;
      });
    } catch (error) {
      trouble.value = error;
    }
  }
  const polling = every(EACH, load);
  cleanup(polling.stop);

  async function redrive({ id, destination }) {
    busy.value = `${id} ${destination}`;
    refused.value = null;
    try {
      await post(["dead-letters", "redrive"], { ids: [id], destination });
      announce("The message is on its way again");
    } catch (error) {
      refused.value = error;
    } finally {
      busy.value = "";
      polling.now();
    }
  }

  return () => html`
    <section aria-labelledby="letters-title">
      <div class="page-head"><h1 id="letters-title">Dead letters</h1>
        <span class="quiet">the last one first</span></div>
      <${Trouble} problem=${trouble.value} />
      <${Trouble} problem=${refused.value} />
      ${letters.value === null && html`<${Empty}>Looking…<//>`}
      ${letters.value?.length === 0 && html`<${Empty}>No message was given up. That is how it
        should be.<//>`}
      ${letters.value?.length > 0 && html`
        <table class="letters cards">
          <thead><tr><th>Message</th><th>Why it was given up</th><th>Died</th><th></th></tr></thead>
          <tbody>${letters.value.map((it) => row(it, busy.value, redrive))}</tbody>
        </table>`}
      ${pages.buttons()}
    </section>`;
});

function row(letter, busy, redrive) {
  const name = `${letter.id} ${letter.destination}`;
  return html`
    <tr key=${name} data-letter=${letter.id}>
      <td class="main"><span class="mono">${letter.type}</span>
        <div class="quiet">to ${letter.destination}, about <span class="mono">${letter.key}</span></div>
        <details><summary>payload</summary><pre tabindex="0">${letter.payload}</pre></details></td>
      <td class="detail">${letter.reason}
        <div class="quiet">after ${letter.attempts} attempts</div></td>
      <td class="number"><${When} at=${letter.died_at} /></td>
      <td>${letter.saga
        ? html`<a href=${to(["sagas", letter.saga])}>retry the saga's step</a>`
        : html`<button class="button" disabled=${busy === name}
            onClick=${() => redrive(letter)}>Redrive</button>`}</td>
    </tr>`;
}
