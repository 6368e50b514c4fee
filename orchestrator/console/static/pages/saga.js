// One run: how it stands, its graph, its history, and what a person may do to it; live.
import { Actions } from "../parts/actions.js";
import { get } from "../core/api.js";
import { component, html } from "../core/component.js";
import { Graph } from "../parts/graph.js";
import { History } from "../parts/history.js";
import { announce, Badge, Empty, Sign, Trouble, When } from "../parts/pieces.js";
import { write } from "../core/json.js";
import { coalesced, every } from "../core/polling.js";
import { entitle, to } from "../core/routes.js";
import { follow } from "../core/stream.js";
import { batch, signal } from "../core/vendor.js";
import { RUN, span, STEP, WAITS_FOR, wordFor } from "../parts/words.js";

const LINK = {
  connecting: { word: "connecting…", tone: "idle" },
  live: { word: "live", tone: "good" },
  waiting: { word: "connecting again…", tone: "back" },
  over: { word: "ended", tone: "idle" },
};
const EACH = 2_000;
/** What a run waits for changes without a line in its history. */
const WAITS_EACH = 5_000;

export const SagaPage = component(({ id }, cleanup) => {
  const saga = signal(null);
  const trouble = signal(null);
  const entries = signal([]);
  const link = signal("connecting");
  const selected = signal(null);
  let stop = () => {};
  let left = false;
  entitle(`Saga ${id}`);

  const look = coalesced(async () => {
    try {
      const now = await get(["sagas", id]);
      if (saga.value && saga.value.status !== now.status) {
        announce(`${now.name} is ${wordFor(RUN, now.status).word.toLowerCase()} now`);
      }
      if (!left) entitle(`${wordFor(RUN, now.status).word}: ${now.name}, ${now.key}`);
      batch(() => {
        saga.value = now;
        trouble.value = null;
      });
    } catch (error) {
      trouble.value = error;
    }
  });

  // A service hands out the id of a saga before the orchestrator has heard of it.
  const finding = every(EACH, async () => {
    await look();
    if (saga.value === null && trouble.value?.status !== 410) return;
    finding.stop();
    if (saga.value !== null && !left) begin();
  });
  cleanup(finding.stop);

  function begin() {
    const waiting = every(WAITS_EACH, async () => {
      if (saga.value.ended_at === null) await look();
    });
    cleanup(waiting.stop);
    stop = follow(id, {
      told(fresh) {
        entries.value = [...entries.value, ...fresh];
        look();
      },
      standing: (word) => (link.value = word),
      async isOver() {
        await look();
        return trouble.value === null && saga.value.ended_at !== null;
      },
    });
  }

  cleanup(() => {
    left = true;
    stop();
  });

  return () => {
    const run = saga.value;
    const back = html`<a class="back-link" href=${to(["sagas"])}>← All sagas</a>`;
    if (run === null) {
      return html`<section>${back}<${Trouble} problem=${trouble.value} />
        ${trouble.value === null && html`<${Empty}>Looking…<//>`}
        ${trouble.value?.status === 404 && html`<${Empty}>It was perhaps asked for a moment ago: this
          page looks again every 2 s.<//>`}</section>`;
    }
    const shown = run.steps.find((it) => it.name === selected.value) ?? present(run.steps);
    return html`
      <section aria-labelledby="saga-title" data-link=${link.value}>
        ${back}
        <div class="page-head">
          <h1 id="saga-title">${run.name} <span class="quiet">v${run.version}</span></h1>
          <${Badge} status=${run.status} paused=${run.paused} />
          <span class="link tone-${LINK[link.value].tone}">${LINK[link.value].word}</span>
        </div>
        <${Trouble} problem=${trouble.value} />
        <${Warnings} run=${run} />
        <${Facts} run=${run} />
        <${Actions} run=${run} done=${look} />
        <h2>Steps</h2>
        <${Graph} steps=${run.steps} turnedBack=${run.direction === "BACKWARD"} selected=${shown?.name}
          select=${(name) => (selected.value = name)} />
        ${shown && html`<${StepFacts} step=${shown} />`}
        <h2>History</h2>
        <${History} entries=${entries.value} removed=${run.history_removed} />
        <details class="state"><summary>What it knows</summary>
          <pre tabindex="0">${write(run.state, 2)}</pre></details>
      </section>`;
  };
});

/** The step that most deserves a look: what is stuck, then what is under way, then what said no. */
function present(steps) {
  for (const statuses of [["STUCK"], ["IN_DOUBT", "SENT", "WAITING", "UNDOING"], ["REFUSED"]]) {
    const found = steps.find((it) => statuses.includes(it.status));
    if (found) return found;
  }
  return steps.at(-1);
}

function Warnings({ run }) {
  const stuck = run.ended_at === null ? run.steps.filter((it) => it.status === "STUCK") : [];
  return html`
    ${stuck.map((it) => html`<div key=${it.name} class="note tone-alarm headline" data-stuck=${it.name}>
      <${Sign} name="alarm" /><p><strong>Stuck at ${it.name}:</strong> ${it.reason
        ?? "no reason was given"}</p></div>`)}
    ${run.parked && html`<div class="note tone-alarm"><${Sign} name="alarm" />
      <p><strong>Parked.</strong> Nothing is sent for it: ${run.parked}</p></div>`}
    ${run.not_undone.length > 0 && html`<div class="note tone-back"><${Sign} name="alarm" />
      <p><strong>Not undone:</strong> ${run.not_undone.join(", ")}.
        What these steps did may still be in effect.</p></div>`}
    ${run.stray_effects.length > 0 && html`<div class="note tone-alarm"><${Sign} name="alarm" />
      <div><p><strong>Took effect when nothing could undo it any more.</strong> Look for it at the
        participant, by the id of the command.</p>
        <ul>${run.stray_effects.map((it) => html`<li key=${it.command_id}>${it.step},
          <span class="mono">${it.command_id}</span>, told <${When} at=${it.at} /></li>`)}</ul></div></div>`}`;
}

function Facts({ run }) {
  const facts = [
    ["Key", html`<span class="mono">${run.key}</span>`],
    ["Id", html`<span class="mono">${run.id}</span>`],
    ["Asked for by", run.originator ?? "the API"],
    run.begin_at
      ? ["To begin", html`<${When} at=${run.begin_at} />`]
      : ["Began", html`<${When} at=${run.created_at} />`],
    ["Last change", html`<${When} at=${run.updated_at} />`],
    ["Ended", run.ended_at
      ? html`<${When} at=${run.ended_at} /> <span class="quiet">after ${span(run.created_at, run.ended_at)}</span>`
      : "not yet"],
    ...(run.archived
      ? [["Archived", html`<${When} at=${run.archived.at} /> <span class="mono">${run.archived.file}</span>
          <span class="quiet">in ${run.archived.place}; it is in no list</span>`]]
      : []),
    ...(run.history_removed
      ? [["History", html`removed by retention <${When} at=${run.history_removed.at} />
          <span class="quiet">${run.history_removed.place === null
            ? "for good"
            : html`to <span class="mono">${run.history_removed.file}</span> in ${run.history_removed.place}`}</span>`]]
      : []),
  ];
  return html`<dl class="facts">${facts.map(([name, value]) => html`
    <div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

function StepFacts({ step }) {
  const { word, tone, sign } = wordFor(STEP, step.status);
  const { awaited } = step;
  return html`
    <div class="step-facts">
      <h3>${step.name}
        <span class="badge tone-${tone}"><${Sign} name=${sign} />${word}</span></h3>
      <dl>
        <div><dt>Participant</dt><dd>${step.participant ?? "unknown here"}</dd></div>
        <div><dt>Action</dt><dd class="mono">${step.action ?? "unknown here"}</dd></div>
        <div><dt>Compensation</dt><dd class="mono">${step.compensation ?? "none"}</dd></div>
        <div><dt>Waits for</dt><dd>${step.after.join(", ") || "no other step"}</dd></div>
        <div><dt>Commands so far</dt><dd>${step.attempts}</dd></div>
        <div><dt>Awaited answer</dt><dd>${awaited
          ? html`<span class="mono">${awaited.type}</span>
            ${awaited.deadline && html` <span class="quiet">due <${When} at=${awaited.deadline} /></span>`}`
          : "none"}</dd></div>
        ${step.waits_for && html`<${Waiting} step=${step} />`}
      </dl>
      ${step.reason && html`<p class="reason">${step.reason}</p>`}
    </div>`;
}

/** What the step waits for: since when and why, how often it was tried in vain, and when it is next. */
function Waiting({ step }) {
  const { tries = 0, error, next_at: next, silence, pending } = step.awaited ?? {};
  const since = silence?.since ?? pending?.since;
  const facts = [
    ["Under way", html`<span data-waits=${step.waits_for}>${wordFor(WAITS_FOR, step.waits_for).word}</span>
      ${since && html` <span class="quiet">since <${When} at=${since} /></span>`}`],
    pending?.note && ["Waits for whom", pending.note],
    pending?.expected_at && ["Expected", html`<${When} at=${pending.expected_at} />
      ${pending.is_late && html` <strong data-late>has passed</strong>`}`],
    pending?.attempt && ["Call to the outside", html`attempt ${pending.attempt}
      ${pending.holder && html` by <span class="mono">${pending.holder}</span>`}
      ${pending.until && html` <span class="quiet">until <${When} at=${pending.until} /></span>`}`],
    silence && ["No answer", `${deliveries(silence.deliveries)} in a row: ${silence.reason}`],
    error && ["Last error", html`${error} <span class="quiet">${tries} in vain</span>`],
    next && ["Next try", html`<${When} at=${next} />`],
  ];
  return facts.filter(Boolean).map(([name, value]) => html`
    <div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`);
}

function deliveries(count) {
  return count === 1 ? "1 delivery" : `${count} deliveries`;
}
