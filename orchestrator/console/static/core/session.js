// Who looks: a token is traded for a cookie that scripts cannot read.
import { address, attempt, problemOf } from "./api.js";
import { signal } from "./vendor.js";

const KNOWN = "sagabox-signed-in";

/** The refusal because of which a token is asked for; null while none is. */
export const wanted = signal(null);
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

/** Trade a token for the cookie, and let the requests that wait go on. Throws Problem. */
export async function trade(token) {
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
