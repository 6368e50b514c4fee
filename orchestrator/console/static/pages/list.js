// The live list of runs: filters, pages, newest first.
import { get } from "../core/api.js";
import { component, html } from "../core/component.js";
import { paging } from "../parts/pager.js";
import { announce, Badge, Empty, Sign, Trouble, When } from "../parts/pieces.js";
import { every } from "../core/polling.js";
import { entitle, go, route, to } from "../core/routes.js";
import { batch, effect, signal, untracked } from "../core/vendor.js";
import { RUN, span, WAITS_FOR } from "../parts/words.js";

const EACH = 2_000;
const LIMIT = 25;

/** Whether only one definition or key is shown; the counts are of all. */
const isNarrowed = (query) => Boolean(query.get("name") || query.get("key"));

/** How many runs have each status, as text. A list without them is still a list. */
async function countsOf() {
  try {
    const { items } = await get(["sagas", "counts"]);
    return new Map(items.map((it) => [it.status, `${it.runs}${it.has_more ? "+" : ""}`]));
  } catch {
    return new Map();
  }
}

export const ListPage = component((_, cleanup) => {
  const runs = signal(null);
  const counts = signal(new Map());
  const trouble = signal(null);
  const names = signal([]);
  const pages = paging(() => polling.now());

  const asked = () => `${route.value.query}|${pages.cursor ?? ""}`;

  async function load() {
    const { query } = route.value;
    const before = asked();
    try {
      const page = await get(["sagas"], {
        status: query.getAll("status"),
        name: query.get("name"),
        key: query.get("key"),
        cursor: pages.cursor,
        limit: LIMIT,
      });
      if (asked() !== before) return;
      tell(page.items);
      batch(() => {
        runs.value = page.items;
        pages.arrived(page);
        trouble.value = null;
      });
      counts.value = isNarrowed(query) ? new Map() : await countsOf();
    } catch (error) {
      if (asked() === before) trouble.value = error;
    }
  }

  /** What changed since the last look, for those who listen. */
  function tell(items) {
    if (runs.value === null) return;
    const old = new Map(runs.value.map((run) => [run.id, run.status]));
    const fresh = items.filter((run) => !old.has(run.id)).length;
    const moved = items.filter((run) => old.has(run.id) && old.get(run.id) !== run.status).length;
    const parts = [fresh && `${fresh} new`, moved && `${moved} changed`].filter(Boolean);
    if (parts.length > 0) announce(`Sagas: ${parts.join(", ")}`);
  }

  entitle("Sagas");
  const polling = every(EACH, load);
  cleanup(polling.stop);
  let shown = String(route.value.query);
  cleanup(effect(() => {
    const now = String(route.value.query);
    if (now === shown) return;
    shown = now;
    untracked(pages.restart);
  }));
  get(["definitions"]).then(
    (all) => (names.value = [...new Set(all.items.map((it) => it.name))]),
    () => {}, // the filter then offers no names; the list itself says what is wrong
  );

  return () => html`
    <section aria-labelledby="list-title">
      <div class="page-head"><h1 id="list-title">Sagas</h1>
        <span class="quiet">newest first, looked at every 2 s</span></div>
      <${Filters} query=${route.value.query} names=${names.value}
        counts=${isNarrowed(route.value.query) ? new Map() : counts.value} />
      <${Trouble} problem=${trouble.value} />
      <${Table} runs=${runs.value} filtered=${String(route.value.query) !== ""} />
      ${pages.buttons()}
    </section>`;
});

function Filters({ query, names, counts }) {
  const chosen = query.getAll("status");

  function change(edit) {
    const changed = new URLSearchParams(query);
    edit(changed);
    go(to(["sagas"], changed));
  }
  function set(name, value) {
    change((it) => (value ? it.set(name, value) : it.delete(name)));
  }
  function toggle(status) {
    change((it) => {
      it.delete("status");
      for (const each of Object.keys(RUN)) {
        if (chosen.includes(each) !== (each === status)) it.append("status", each);
      }
    });
  }

  const known = query.get("name");
  const offered = known && !names.includes(known) ? [known, ...names] : names;
  return html`
    <form class="filters" role="search" onSubmit=${(event) => {
      event.preventDefault();
      set("key", new FormData(event.currentTarget).get("key").trim());
    }}>
      <div class="chips" role="group" aria-label="Status">
        <button type="button" class="chip" aria-pressed=${chosen.length === 0}
          onClick=${() => change((it) => it.delete("status"))}>All</button>
        ${Object.entries(RUN).map(([status, { word, tone, sign }]) => html`
          <button type="button" key=${status} class="chip tone-${tone}"
            aria-pressed=${chosen.includes(status)} onClick=${() => toggle(status)}>
            <${Sign} name=${sign} size=${13} />${word}
            ${counts.has(status) && html`<span class="count">${counts.get(status)}</span>`}</button>`)}
      </div>
      <label class="field inline"><span>Definition</span>
        <select name="name" value=${known ?? ""}
          onChange=${(event) => set("name", event.currentTarget.value)}>
          <option value="">all</option>
          ${offered.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
        </select></label>
      <label class="field inline grow"><span>Key</span>
        <input type="search" name="key" ref=${showing(query.get("key") ?? "")} placeholder="the whole key"
          spellcheck="false" autocomplete="off"
          onChange=${(event) => set("key", event.currentTarget.value.trim())} /></label>
    </form>`;
}

/** Puts the text into a field when it becomes another one, and leaves alone what an operator types. */
function showing(text) {
  return (field) => {
    if (field === null || field.dataset.shown === text) return;
    field.dataset.shown = text;
    field.value = text;
  };
}

function Table({ runs, filtered }) {
  if (runs === null) return html`<${Empty}>Looking…<//>`;
  if (runs.length === 0) {
    return html`<${Empty}>${filtered
      ? "No saga fits these filters."
      : "Nothing was started yet. A saga shows up here as soon as it begins."}<//>`;
  }
  const now = new Date();
  return html`
    <table class="runs cards">
      <thead><tr><th>Status</th><th>Saga</th><th>Key</th><th>Began</th><th>Took</th></tr></thead>
      <tbody>${runs.map((run) => html`
        <tr key=${run.id} data-saga=${run.id} data-status=${run.status}>
          <td><${Badge} status=${run.status} paused=${run.paused} /></td>
          <td class="main"><a href=${to(["sagas", run.id])}>${run.name}</a>
            <span class="quiet"> v${run.version}</span>
            ${run.parked && html`<span class="mark" title=${run.parked}>parked</span>`}
            ${WAITS_FOR[run.waits_for]?.listed && html`
              <span class="mark" data-waits=${run.waits_for}>${WAITS_FOR[run.waits_for].word}</span>`}
            <${Where} run=${run} /></td>
          <td class="mono clip" title=${run.key}>${run.key}</td>
          <td class="number"><${When} at=${run.created_at} /></td>
          <td class="number">${span(run.created_at, run.ended_at ?? now)}</td>
        </tr>`)}
      </tbody>
    </table>`;
}

/** The step at which a run is, and why it does not go on. */
function Where({ run }) {
  const told = [run.step, run.reason].filter(Boolean).join(" · ");
  return told && html`<div class="where quiet clip" title=${told}>${told}</div>`;
}
