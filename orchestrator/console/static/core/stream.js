// What happens to a saga, as it happens. Read with fetch and not with EventSource, which tells neither
// why it was refused nor, once it was, ever asks again.
import { address, send } from "./api.js";
import { read } from "./json.js";

const SILENCE = 30_000; // the orchestrator says every 10 s that it is alive
const FIRST_PAUSE = 1_000;
const LONGEST_PAUSE = 5_000;

/**
 * Follow a saga from its first line on, over lost connections and while the page is visible.
 *
 * `told(entries)` gets the lines in order, each once. `standing(word)` hears "live", "waiting" and
 * "over". `isOver()` is asked when a stream ended, and says whether the saga has. Returns the function
 * that stops.
 */
export function follow(id, { told, standing, isOver }) {
  const stop = new AbortController();
  let last = 0;
  let lastIsEnd = false;

  async function listen() {
    const connection = new AbortController();
    const hang = () => connection.abort();
    const hide = () => document.hidden && hang();
    let watchdog = setTimeout(hang, SILENCE);
    stop.signal.addEventListener("abort", hang);
    document.addEventListener("visibilitychange", hide);
    try {
      const answer = await send(address(["sagas", id, "events"]), {
        headers: { accept: "text/event-stream", "last-event-id": String(last) },
        signal: connection.signal,
      });
      standing("live");
      for await (const entries of batches(answer.body, () => {
        clearTimeout(watchdog);
        watchdog = setTimeout(hang, SILENCE);
      })) {
        const fresh = entries.filter((entry) => entry.number > last);
        if (fresh.length === 0) continue;
        last = fresh.at(-1).number;
        lastIsEnd = fresh.at(-1).happening === "ended";
        told(fresh);
      }
    } finally {
      clearTimeout(watchdog);
      stop.signal.removeEventListener("abort", hang);
      document.removeEventListener("visibilitychange", hide);
      hang();
    }
  }

  async function run() {
    let pause = FIRST_PAUSE;
    let over = false;
    while (!stop.signal.aborted) {
      await visible(stop.signal);
      const before = last;
      let ended = false;
      try {
        await listen();
        ended = true;
      } catch {
        // A lost connection and a refused one are the same to us: ask again later.
      }
      if (stop.signal.aborted) return;
      // A stream may end before the saga: only one that began behind the end has told all of it.
      if (ended && over) return standing("over");
      over = !document.hidden && (await isOver());
      if (stop.signal.aborted) return;
      if (over && ended && lastIsEnd) return standing("over");
      if (over && ended) continue;
      standing("waiting");
      pause = ended || last > before ? FIRST_PAUSE : Math.min(pause * 1.5, LONGEST_PAUSE);
      await sleep(pause, stop.signal);
    }
  }

  run();
  return () => stop.abort();
}

/** The entries of a body of server-sent events, those of one piece of it together. */
async function* batches(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    alive();
    const parsed = parse(rest + value);
    rest = parsed.rest;
    yield parsed.events.map((event) => read(event.data));
  }
}

/** The whole events of a text, and what is left of it behind them. Comments are no events. */
export function parse(text) {
  const blocks = text.replaceAll("\r\n", "\n").split("\n\n");
  const rest = blocks.pop();
  const events = [];
  for (const block of blocks) {
    const event = {};
    for (const line of block.split("\n")) {
      const [, field, value] = /^(\w+): ?(.*)$/.exec(line) ?? [];
      if (field === "data" && "data" in event) event.data += "\n" + value;
      else if (field) event[field] = value;
    }
    if ("data" in event) events.push(event);
  }
  return { events, rest };
}

function visible(abort) {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden && !abort.aborted) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    abort.addEventListener("abort", look, { once: true });
  });
}

function sleep(milliseconds, abort) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    abort.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
