// What a person may do to a run, each with a reason that goes into its history.
import { post } from "../core/api.js";
import { component, html } from "../core/component.js";
import { readJson } from "../core/json_input.js";
import { announce, Trouble } from "./pieces.js";
import { signedIn } from "../core/session.js";
import { signal } from "../core/vendor.js";

const LONGEST_REASON = 500;
const ACTOR = "sagabox-actor";

const VERBS = {
  retry: { word: "Retry", says: "Tries the stuck step again, with all its repetitions before it." },
  skip: {
    word: "Skip",
    says: "Forward, takes the step for done, with the result below as its answer. Backward, leaves "
      + "it as it is, and lists it as not undone.",
  },
  resolve: { word: "Resolve", says: "Ends the saga. You have taken care of the rest." },
  resume: { word: "Resume", says: "Goes on sending." },
  pause: {
    word: "Pause",
    says: "Sends nothing until it is resumed. Answers are taken in, and no deadline counts.",
  },
  cancel: { word: "Cancel", says: "Turns back, and undoes what was done.", grave: true },
  terminate: {
    word: "Terminate",
    says: "Ends at once and undoes NOTHING. What is in effect stays in effect.",
    grave: true,
  },
};
const OF_A_STEP = ["retry", "skip"];

/** A button for each verb in `allowed`, and the dialog that asks for the reason. */
export const Actions = component(() => {
  const open = signal(null);
  return ({ run, done }) => {
    const allowed = Object.keys(VERBS).filter((verb) => run.allowed.includes(verb));
    return html`
      <div class="actions" role="group" aria-label="What you can do">
        ${allowed.map((verb) => html`
          <button key=${verb} class="button ${VERBS[verb].grave ? "grave" : ""}"
            onClick=${() => (open.value = verb)}>${VERBS[verb].word}…</button>`)}
        ${allowed.length === 0 && html`<span class="quiet">${run.ended_at
          ? "It has ended; there is nothing left to do."
          : "Nothing can be done to it here."}</span>`}
      </div>
      ${open.value && html`<${Asking} key=${open.value} verb=${open.value} run=${run}
        close=${() => (open.value = null)} done=${done} />`}`;
  };
});

const Asking = component(({ verb, run, close, done }) => {
  const busy = signal(false);
  const trouble = signal(null);
  const { word, says, grave } = VERBS[verb];
  let dialog = null;

  async function submit(event) {
    event.preventDefault();
    const given = new FormData(event.currentTarget);
    busy.value = true;
    trouble.value = null;
    try {
      await post(["sagas", run.id, verb], body(verb, given));
      keepActor(given.get("actor"));
      announce(`${word}: it was taken in`);
      dialog.close();
      done();
    } catch (error) {
      trouble.value = error;
    } finally {
      busy.value = false;
    }
  }

  const show = (element) => {
    dialog = element ?? dialog;
    if (element && !element.open) element.showModal();
  };

  return ({ run: now }) => html`
    <dialog class="dialog" ref=${show} onClose=${close} aria-labelledby="asking-title">
      <form onSubmit=${submit}>
        <h2 id="asking-title">${word} ${now.name}</h2>
        <p class="quiet">${says}</p>
        ${OF_A_STEP.includes(verb) && html`<${StepField} steps=${now.steps} />`}
        ${verb === "skip" && html`
          <label class="field"><span>Result, as JSON (none: leave it empty)</span>
            <textarea name="result" class="mono" rows="3" spellcheck="false"></textarea></label>`}
        <label class="field"><span>Reason</span>
          <textarea name="reason" rows="3" required autofocus
            maxlength=${LONGEST_REASON}></textarea></label>
        <label class="field"><span>${signedIn.value
            ? "On whose behalf (the history names your token anyway)" : "Who asks"}</span>
          <input name="actor" required=${!signedIn.value} maxlength="200"
            defaultValue=${keptActor()} autocomplete="name" /></label>
        <${Trouble} problem=${trouble.value} />
        <div class="dialog-foot">
          <button type="button" class="button" onClick=${() => dialog.close()}>Leave it</button>
          <button class="button ${grave ? "grave" : ""} primary" disabled=${busy.value}>${word}</button>
        </div>
      </form>
    </dialog>`;
});

function StepField({ steps }) {
  const stuck = steps.filter((it) => it.status === "STUCK");
  const offered = stuck.length > 0 ? stuck : steps;
  return html`<label class="field"><span>Step</span>
    <select name="step" required>${offered.map(({ name }) => html`
      <option key=${name} value=${name}>${name}</option>`)}</select></label>`;
}

/** What the verb's route takes. Throws where the result is no JSON. */
function body(verb, given) {
  const asked = { reason: given.get("reason") };
  const actor = given.get("actor").trim();
  if (actor) asked.actor = actor;
  if (OF_A_STEP.includes(verb)) asked.step = given.get("step");
  const result = verb === "skip" ? given.get("result").trim() : "";
  if (result) asked.result = readJson(result, "The result");
  return asked;
}

function keptActor() {
  try {
    const kept = localStorage.getItem(ACTOR);
    if (kept) return kept;
  } catch {
    // Then it is not known.
  }
  return signedIn.value ? "" : "console";
}

function keepActor(name) {
  try {
    localStorage.setItem(ACTOR, name);
  } catch {
    // It is asked for again next time.
  }
}
