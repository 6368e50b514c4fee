// What the orchestrator can run: all definitions, and one with its graph and a way to start it.
import { get, post } from "../core/api.js";
import { component, html } from "../core/component.js";
import { write } from "../core/json.js";
import { readJson } from "../core/json_input.js";
import { Graph } from "../parts/graph.js";
import { Empty, Trouble } from "../parts/pieces.js";
import { entitle, go, to } from "../core/routes.js";
import { signal } from "../core/vendor.js";
import { length } from "../parts/words.js";

export const DefinitionsPage = component(() => {
  entitle("Definitions");
  const all = signal(null);
  const trouble = signal(null);
  get(["definitions"]).then(
    (answer) => (all.value = answer.items),
    (error) => (trouble.value = error),
  );
  return () => html`
    <section aria-labelledby="definitions-title">
      <div class="page-head"><h1 id="definitions-title">Definitions</h1></div>
      <${Trouble} problem=${trouble.value} />
      ${all.value === null && trouble.value === null && html`<${Empty}>Looking…<//>`}
      ${all.value?.length === 0 && html`<${Empty}>No definition is registered here.<//>`}
      ${all.value?.length > 0 && html`
        <table class="definitions cards">
          <thead><tr><th>Name</th><th>Version</th><th>Fingerprint</th><th>Runs</th></tr></thead>
          <tbody>${all.value.map((it) => html`
            <tr key="${it.name} ${it.version}">
              <td class="main"><a href=${to(["definitions", it.name, it.version])}>${it.name}</a></td>
              <td>v${it.version} ${it.latest && html`<span class="mark">latest</span>`}</td>
              <td class="mono clip" title=${it.fingerprint}>${it.fingerprint}</td>
              <td><a href=${to(["sagas"], new URLSearchParams({ name: it.name }))}>its sagas</a></td>
            </tr>`)}</tbody>
        </table>`}
    </section>`;
});

export const DefinitionPage = component(({ name, version }) => {
  entitle(`${name} v${version}`);
  const shown = signal(null);
  const trouble = signal(null);
  get(["definitions", name, version]).then(
    (answer) => (shown.value = answer),
    (error) => (trouble.value = error),
  );
  return () => {
    const it = shown.value;
    return html`
      <section aria-labelledby="definition-title">
        <a class="back-link" href=${to(["definitions"])}>← All definitions</a>
        <div class="page-head"><h1 id="definition-title">${name} <span
          class="quiet">v${version}</span></h1></div>
        <${Trouble} problem=${trouble.value} />
        ${it && html`
          <p class="quiet about">It speaks to ${it.participants.join(", ")}; one key
            ${" "}${it.one_active ? "has one active saga at most" : "may have several active sagas"}.
            ${" "}Fingerprint: <span class="mono">${it.fingerprint}</span></p>
          <${Graph} steps=${it.steps} plain />
          <h2>Steps</h2>
          <${Steps} steps=${it.steps} />
          <h2>Start one</h2>
          <${StartForm} definition=${it} />`}
      </section>`;
  };
});

function Steps({ steps }) {
  return html`
    <table class="steps cards">
      <thead><tr><th>Step</th><th>Kind</th><th>Action</th><th>Undone by</th><th>Deadline</th></tr></thead>
      <tbody>${steps.map((step) => html`
        <tr key=${step.name}>
          <td class="main">${step.name}</td>
          <td>${step.kind}</td>
          <td data-label="Action" class="mono" title=${step.action}>${step.action}</td>
          <td data-label="Undone by" class="mono" title=${step.compensation}>${
            step.compensation ?? "–"}</td>
          <td data-label="Deadline">${step.deadline < 1 ? `${step.deadline} s` : length(Math.round(step.deadline))}</td>
        </tr>`)}</tbody>
    </table>`;
}

const StartForm = component(({ definition }) => {
  const busy = signal(false);
  const trouble = signal(null);
  const idempotencyKey = hex(crypto.getRandomValues(new Uint8Array(16)));
  const example = write(skeleton(definition.input), 2);

  async function submit(event) {
    event.preventDefault();
    const text = new FormData(event.currentTarget).get("input");
    busy.value = true;
    trouble.value = null;
    try {
      const started = await post(["sagas", definition.name], readJson(text, "The input"), {
        "idempotency-key": idempotencyKey,
      });
      go(to(["sagas", started.id]));
    } catch (error) {
      trouble.value = error;
    } finally {
      busy.value = false;
    }
  }

  return () => html`
    <form class="start" onSubmit=${submit}>
      <label class="field"><span>Input, as JSON; it takes the latest version</span>
        <textarea name="input" class="mono" rows=${Math.min(12, example.split("\n").length + 1)}
          required spellcheck="false" defaultValue=${example}></textarea></label>
      <${Trouble} problem=${trouble.value} />
      <button class="button primary" disabled=${busy.value}>Start ${definition.name}</button>
      <details><summary>The input's schema</summary>
        <pre tabindex="0">${write(definition.input, 2)}</pre></details>
    </form>`;
});

/** An input with the fields that a schema asks for, empty. */
export function skeleton(schema) {
  const empty = { string: "", integer: 0, number: 0, boolean: false, array: [], object: {} };
  return Object.fromEntries((schema.required ?? []).map((name) => [
    name,
    empty[schema.properties?.[name]?.type] ?? null,
  ]));
}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
