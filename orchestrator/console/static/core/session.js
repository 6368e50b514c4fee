// Who looks: a token is traded for a cookie that scripts cannot read.
import { address, attempt, problemOf } from "./api.js";
import { component, html } from "./component.js";
import { signal } from "./vendor.js";
import { Trouble } from "../parts/pieces.js";

const KNOWN = "sagabox-signed-in";

/** The refusal because of which somebody is asked for a token; null while nobody is. */
const wanted = signal(null);
/** Whether a token was traded here, so that there is a session to end. */
export const signedIn = signal(remembered());
let waiting = [];

/** Ask for a token, and return once it was taken. */
export function signIn(problem, abort) {
  wanted.value ??= problem;
  return new Promise((resolve, reject) => {
    waiting.push(resolve);
    abort?.addEventListener("abort", () => reject(abort.reason), { once: true });
  });
}

/** End the session. */
export async function signOut() {
  const answer = await attempt(address(["session"]), { method: "DELETE" });
  if (!answer.ok && answer.status !== 401) throw await problemOf(answer);
  remember(false);
  location.reload();
}

async function trade(token) {
  const answer = await attempt(address(["session"]), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ token }),
  });
  if (!answer.ok) throw await problemOf(answer);
  remember(true);
  wanted.value = null;
  const those = waiting;
  waiting = [];
  for (const resolve of those) resolve();
}

function remembered() {
  try {
    return localStorage.getItem(KNOWN) === "yes";
  } catch {
    return false;
  }
}

function remember(yes) {
  signedIn.value = yes;
  try {
    if (yes) localStorage.setItem(KNOWN, "yes");
    else localStorage.removeItem(KNOWN);
  } catch {
    // Then the button to sign out is there until the page is closed.
  }
}

/** Asks for a token as long as one is wanted. */
export const TokenForm = component(() => {
  const busy = signal(false);
  const trouble = signal(null);

  async function submit(event) {
    event.preventDefault();
    const form = event.currentTarget;
    busy.value = true;
    trouble.value = null;
    try {
      await trade(new FormData(form).get("token"));
      form.reset();
    } catch (error) {
      trouble.value = error;
    } finally {
      busy.value = false;
    }
  }

  // Escape closes any dialog; without a token there is nothing behind this one.
  const open = (element) => element && !element.open && element.showModal();

  return () => wanted.value && html`
    <dialog class="dialog" ref=${open} aria-labelledby="token-title"
        onClose=${(event) => open(event.currentTarget)}>
      <form onSubmit=${submit}>
        <h2 id="token-title">Sign in</h2>
        <p class="quiet">This orchestrator wants to know who asks. A token is made
          by <code>sagabox token create</code>.</p>
        <label class="field"><span>Token</span>
          <input type="password" name="token" required autofocus autocomplete="current-password"
            spellcheck="false" /></label>
        <${Trouble} problem=${trouble.value} />
        <div class="dialog-foot">
          <button class="button primary" disabled=${busy.value}>Sign in</button>
        </div>
      </form>
    </dialog>`;
});
