// How the console asks the orchestrator. Addresses are relative to this file, behind a prefix too.
import { read, write } from "./json.js";

/** The address of the orchestrator. */
export const BASE = new URL("../../", import.meta.url);
/** How often a request is sent again after a sign-in, before its refusal is shown. */
const SIGN_INS = 3;

let signIn = async (problem) => {
  throw problem;
};

/** Say what asks for a token after a 401: a function of the problem and an AbortSignal. */
export function signInBy(ask) {
  signIn = ask;
}

/** An answer that is a refusal, in the API's own words: what happened, and what to do next. */
export class Problem extends Error {
  constructor(status, { detail, next_step, code, title } = {}) {
    super(detail || `The orchestrator answered with ${status}.`);
    this.status = status;
    this.title = title || "It did not work";
    this.code = code || "";
    this.nextStep = next_step || "Look into the orchestrator's log.";
  }
}

/** An address of the API; `parts` are escaped, `query` holds values or lists of them. */
export function address(parts, query = {}) {
  const url = new URL(parts.map(encodeURIComponent).join("/"), BASE);
  for (const [name, value] of Object.entries(query)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined && each !== null && each !== "") url.searchParams.append(name, each);
    }
  }
  return url;
}

/** The answer to a request. Throws Problem; after a 401 it waits for a sign-in and asks again. */
export async function send(url, options = {}) {
  for (let signIns = 0; ; signIns += 1) {
    const answer = await attempt(url, options);
    if (answer.ok) return answer;
    const problem = await problemOf(answer);
    if (answer.status !== 401 || signIns === SIGN_INS) throw problem;
    await signIn(problem, options.signal);
  }
}

/** The JSON that stands at an address. */
export async function get(parts, query, options) {
  return read(await (await send(address(parts, query), options)).text());
}

/** What the API answers to a JSON body. */
export async function post(parts, body, headers = {}) {
  const answer = await send(address(parts), {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: write(body),
  });
  return read(await answer.text());
}

/** One request: its answer, also an error. Throws Problem with status 0 where no server answers. */
export async function attempt(url, options) {
  try {
    return await fetch(url, { credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, {
      title: "No answer",
      detail: "The orchestrator does not answer.",
      next_step: "See whether it runs. What you see here is kept up to date again once it does.",
    });
  }
}

/** The problem that an answer carries. */
export async function problemOf(answer) {
  let told = {};
  try {
    told = read(await answer.text());
  } catch {
    // Something between us and the orchestrator answered in its own way.
  }
  const { detail } = told;
  return new Problem(answer.status, { ...told, detail: typeof detail === "string" ? detail : "" });
}
