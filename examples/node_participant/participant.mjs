// A participant in Node.js with the trial commands: entries of accounts.
//
//     SAGABOX_SECRETS=one:... node participant.mjs PORT JOURNAL
import { newId, serve } from "./door.mjs";
import { complete, done, Inbox, locked, pending, refused } from "./inbox.mjs";
import { Journal } from "./journal.mjs";

const entries = (tx, account) => tx.get(`account ${account}`) ?? [];
const balance = (tx, account) => entries(tx, account).reduce((sum, it) => sum + it.amount, 0);

function add(tx, { account, amount }, { id }) {
  tx.put(`account ${account}`, [...entries(tx, account), { command: id, amount }]);
  return done({ balance: balance(tx, account) });
}

function remove(tx, { account }, { undoes }) {
  const left = entries(tx, account).filter((it) => !undoes.includes(it.command));
  tx.put(`account ${account}`, left);
  return done();
}

function fail(tx, data, context) {
  const added = add(tx, data, context);
  if (entries(tx, data.gate).length === 0) throw new Error("as it was asked to");
  return added;
}

function busy(tx, data, context) {
  const added = add(tx, data, context);
  return entries(tx, data.gate).length === 0 ? locked("the gate") : added;
}

function later(tx, data, context) {
  add(tx, data, context);
  return pending("until it is completed");
}

function refuse(tx, data, context) {
  add(tx, data, context);
  return refused("no", "as it was asked to");
}

function completed(tx, { account, command, outcome }) {
  const isDone = outcome === "done";
  const answer = isDone ? done({ balance: balance(tx, account) }) : refused("no", "as asked");
  const why = complete(tx, command, answer);
  if (why) return refused(why, `${command} cannot be completed`);
  return isDone ? done() : remove(tx, { account }, { undoes: [command] });
}

function read(tx, { account }) {
  const commands = entries(tx, account).map((it) => it.command);
  return done({ balance: balance(tx, account), commands });
}

// JavaScript reads integers above 2^53 as other ones: those are refused.
const fits = { text: (it) => typeof it === "string", number: Number.isSafeInteger };
const shape = (fields) => (data) =>
  typeof data === "object" &&
  data !== null &&
  Object.entries(fields).every(([name, kind]) => fits[kind](data[name]));
const account = { account: "text" };
const entry = { ...account, amount: "number" };

const handlers = {
  "conform.add.v1": { fits: shape(entry), run: add },
  "conform.remove.v1": { fits: shape(account), run: remove },
  "conform.refuse.v1": { fits: shape(entry), run: refuse },
  "conform.fail.v1": { fits: shape({ ...entry, gate: "text" }), run: fail },
  "conform.busy.v1": { fits: shape({ ...entry, gate: "text" }), run: busy },
  "conform.later.v1": { fits: shape(entry), run: later },
  "conform.complete.v1": {
    fits: shape({ ...account, command: "text", outcome: "text" }),
    run: completed,
  },
  "conform.read.v1": { fits: shape(account), run: read },
};

const [port, path] = process.argv.slice(2);
if (!path || !process.env.SAGABOX_SECRETS) {
  console.error("SAGABOX_SECRETS=id:base64 node participant.mjs PORT JOURNAL");
  process.exit(2);
}
const journal = new Journal(path);
const tx = journal.begin();
if (!tx.get("database")) tx.put("database", newId());
tx.commit();
journal.flush();
serve({
  name: "conform",
  secrets: process.env.SAGABOX_SECRETS,
  database: tx.get("database"),
  inbox: new Inbox(journal, handlers),
  port: Number(port),
});
