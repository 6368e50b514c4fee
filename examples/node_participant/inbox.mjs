// The inbox: a message takes effect once, and never together with its undo. It keeps a row for each
// id, in the transaction of what the handler writes.
import { createHash } from "node:crypto";

const VOID = "orchestrator.void.v1";
const MOST_BYTES = 256 * 1024;
const MOST_UNDOES = 500;
const ID = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

export const isId = (text) => typeof text === "string" && ID.test(text);
export const done = (value) => ({ outcome: "done", value });
export const refused = (code, reason) => ({ outcome: "refused", code, reason });
export const locked = (by) => ({ outcome: "locked", code: "locked", reason: by });
export const pending = (note) => ({ outcome: "ongoing", code: "pending", reason: note });

const rejected = (code, reason) => ({ outcome: "rejected", code, reason });
const told = (word, reason) => ({ outcome: word, code: word, reason });
const isPending = (reply) => reply.outcome === "ongoing" && reply.code === "pending";
const holdsKey = (reply) =>
  ["failed", "locked", "ongoing", "not-attempted"].includes(reply.outcome)
    ? !isPending(reply)
    : reply.code === "unknown-type";

export class Inbox {
  #journal;
  #handlers;

  // Of each type: fits(data) says whether the data is right; run(tx, data, { id, undoes }) writes
  // with tx.get and tx.put, and returns one of the replies above. What it throws is a failure.
  constructor(journal, handlers) {
    this.#journal = journal;
    this.#handlers = new Map(Object.entries(handlers));
  }

  // The replies to the events of one request, in their order.
  receive(events) {
    const waiting = new Set();
    const replies = events.map((event) => {
      const lane = `${namesOf(event).length > 0} ${event.partitionkey}`;
      const reply = waiting.has(lane)
        ? told("not-attempted", "what is before it in its key comes again")
        : this.#one(event);
      if (holdsKey(reply)) waiting.add(lane);
      return reply;
    });
    this.#journal.flush();
    return replies;
  }

  #one(event) {
    const handler = event.type === VOID ? { fits: fitsVoid } : this.#handlers.get(event.type);
    if (!handler) return rejected("unknown-type", `there is no handler for ${event.type}`);
    try {
      if (Buffer.byteLength(JSON.stringify(event.data)) > MOST_BYTES)
        return rejected("too-large", `it has more than ${MOST_BYTES} bytes`);
      const problem = problemOf(event, handler);
      return problem ? rejected("invalid", problem) : this.#decide(event, handler);
    } catch (error) {
      return told("failed", String(error));
    }
  }

  #decide(event, handler) {
    const tx = this.#journal.begin();
    const own = { fingerprint: fingerprintOf(event), saga: event.correlationid };
    const row = tx.get(`row ${event.id}`);
    if (row) return known(row, own);
    const bars = [];
    const store = (state, reply, to = tx) => {
      for (const id of bars) to.put(`row ${id}`, { state: "barred", by: event.id });
      to.put(`row ${event.id}`, { ...own, state, reply });
      to.commit();
      return reply;
    };
    if (namesOf(event).length === 0 && isExpired(event))
      return store("barred", told("expired", "it came too late"));
    const states = {};
    const undoes = [];
    for (const id of namesOf(event)) {
      const action = tx.get(`row ${id}`);
      states[id] = { state: action?.state ?? "absent" };
      if (action?.state === "ran") states[id].reply = action.reply;
      if (action && ["ran", "pending"].includes(action.state)) {
        if (action.saga && own.saga && action.saga !== own.saga)
          return rejected("conflict", `another run did ${id}`);
        undoes.push(id);
      }
      if (!action || (event.type === VOID && action.state === "pending")) bars.push(id);
    }
    if (event.type === VOID) return store("ran", done(states));
    if (event.undoes && undoes.length === 0)
      return store("ran", told("nothing-to-undo", "what it undoes is not in effect"));
    const reply = handler.run(tx, event.data, { id: event.id, undoes });
    if (reply.outcome === "refused") return store("refused", reply, this.#journal.begin());
    if (reply.outcome === "locked") return reply;
    if (isPending(reply) && undoes.length > 0) throw new Error("an undo cannot be pending here");
    for (const id of undoes) tx.put(`row ${id}`, { state: "undone", by: event.id });
    if (!isPending(reply)) return store("ran", reply);
    const value = { since: new Date().toISOString() };
    return store("pending", { ...reply, retry_after: 1, value });
  }
}

// Answers a pending command within a transaction. Returns why it cannot: not-pending, too-late or
// already-answered; undefined if it did, or had this answer before.
export function complete(tx, id, reply) {
  const row = tx.get(`row ${id}`);
  if (!row) return "not-pending";
  if (["barred", "undone"].includes(row.state)) return "too-late";
  if (row.state !== "pending")
    return row.reply.outcome === reply.outcome ? undefined : "already-answered";
  const after = reply.outcome === "refused" ? { after_pending: true } : {};
  tx.put(`row ${id}`, { ...row, state: "ran", reply: { ...reply, ...after } });
}

function known(row, own) {
  if (row.state === "barred" && row.reply) return row.reply;
  if (["barred", "undone"].includes(row.state)) return told("already-undone", `${row.by} undid it`);
  if (row.fingerprint !== own.fingerprint)
    return rejected("conflict", "the id was used for another message");
  if (row.saga !== own.saga) return rejected("conflict", "the id was used in another run");
  return row.reply;
}

function problemOf(event, handler) {
  if (event.replyto !== undefined && event.replyto !== event.source)
    return "its reply is for another";
  if (!handler.fits(event.data)) return "its data is not what the type has";
  if (namesOf(event).includes(event.id)) return "it undoes itself";
  if (namesOf(event).length > MOST_UNDOES) return `it undoes more than ${MOST_UNDOES} commands`;
}

function isExpired(event) {
  if (event.expirytime === undefined) return false;
  if (event.expiresin !== undefined) return Number(event.expiresin) <= 0;
  return Date.parse(event.expirytime) <= Date.now();
}

// The commands that it undoes, or lets never run.
function namesOf(event) {
  if (event.type === VOID) return fitsVoid(event.data) ? event.data.ids : [""];
  return event.undoes?.split(" ") ?? [];
}
const fitsVoid = (data) => Array.isArray(data?.ids) && data.ids.length > 0 && data.ids.every(isId);

// The same for every way on which a message may have come: fields in any order.
function fingerprintOf({ type, partitionkey, undoes, data }) {
  const sorted = (value) => {
    if (Array.isArray(value)) return value.map(sorted);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.keys(value).sort().map((name) => [name, sorted(value[name])]));
  };
  const parts = [type, partitionkey, (undoes ?? "").split(" ").sort(), sorted(data)];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex");
}
