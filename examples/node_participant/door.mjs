// The door: POST /messages, whose signature is checked before anything in it is believed.
import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import { isId } from "./inbox.mjs";

const BATCH = "application/cloudevents-batch+json";
const PROBLEM = "application/problem+json";
const MOST_BYTES = 1024 * 1024;
const MOST_MESSAGES = 500;
const WINDOW = 300; // seconds
const ONLY = "there is POST /messages";
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$/i;

class Problem extends Error {
  constructor(status, code, detail) {
    super(detail);
    Object.assign(this, { status, code });
  }
}

// secrets is as in SAGABOX_SECRETS: id:base64,id:base64
export function serve({ name, secrets, database, inbox, port }) {
  const keys = new Map(secrets.split(",").map(keyIn));
  const server = createServer(async (request, response) => {
    response.setHeader("sagabox-database", database);
    try {
      if (request.url !== "/messages") throw new Problem(404, "not-found", ONLY);
      if (request.method !== "POST") throw new Problem(405, "not-allowed", ONLY);
      const body = await bodyOf(request);
      verify(name, keys, request, body);
      if ((request.headers["ce-sagaboxdatabase"] ?? database) !== database)
        throw new Problem(421, "another-database", `this is the store ${database}`);
      const events = eventsIn(request, body);
      const replies = inbox.receive(events);
      response.writeHead(200, { "content-type": BATCH });
      response.end(JSON.stringify(events.map((event, at) => replyEvent(name, event, replies[at]))));
    } catch (error) {
      const isProblem = error instanceof Problem;
      if (!isProblem) console.error(error);
      const { status = 500, code = "unexpected-error", message } = isProblem ? error : {};
      // The rest of a body that is too long must not be taken for the next request.
      response.writeHead(status, { "content-type": PROBLEM, connection: "close" });
      response.end(JSON.stringify({ title: code, status, detail: message, code }));
    }
  });
  server.requestTimeout = 10_000;
  return server.listen(port, "127.0.0.1");
}

function keyIn(text) {
  const [id, secret] = text.split(":");
  return [id, Buffer.from(secret, "base64")];
}

async function bodyOf(request) {
  const parts = [];
  let size = 0;
  const tooLarge = new Problem(413, "body-too-large", `a body has at most ${MOST_BYTES} bytes`);
  if (Number(request.headers["content-length"] ?? 0) > MOST_BYTES) throw tooLarge;
  for await (const part of request) {
    size += part.length;
    if (size > MOST_BYTES) throw tooLarge;
    parts.push(part);
  }
  return Buffer.concat(parts);
}

function verify(name, keys, request, body) {
  const untrusted = (detail) => new Problem(401, "untrusted-request", detail);
  const signed = new Map();
  for (let at = 0; at < request.rawHeaders.length; at += 2) {
    const header = request.rawHeaders[at].toLowerCase();
    if (!/^(ce-.*|content-type|sagabox-.*)$/.test(header)) continue;
    if (signed.has(header)) throw untrusted(`${header} is there twice`);
    signed.set(header, request.rawHeaders[at + 1].trim());
  }
  const get = (header) => signed.get(header) ?? "";
  if (signed.has("ce-sagaboxto") && get("ce-sagaboxto") !== name)
    throw untrusted("it is for another service");
  const target = signed.has("sagabox-target") ? get("sagabox-target") : request.url;
  if (target !== request.url) throw untrusted("it was signed for another path");
  const secret = keys.get(get("sagabox-key-id"));
  if (!secret) throw untrusted("it is not signed with a key that is valid here");
  const covered = [...signed.keys()].filter((it) => it.startsWith("ce-")).sort();
  const lines = [
    "sagabox-signature-v1",
    request.method,
    target,
    get("sagabox-timestamp"),
    get("sagabox-key-id"),
    get("content-type"),
    get("sagabox-settled"),
    createHash("sha256").update(body).digest("hex"),
    ...covered.map((it) => `${it}:${get(it)}`),
  ];
  const expected = createHmac("sha256", secret).update(lines.join("\n")).digest("hex");
  const given = Buffer.from(get("sagabox-signature"));
  if (given.length !== expected.length || !timingSafeEqual(given, Buffer.from(expected)))
    throw untrusted("the signature does not fit");
  const age = Date.now() / 1000 - Number(get("sagabox-timestamp"));
  if (!(Math.abs(age) <= WINDOW)) throw untrusted(`it was signed ${age} s ago`);
}

function eventsIn(request, body) {
  const malformed = (detail) => new Problem(400, "malformed-envelope", detail);
  const type = (request.headers["content-type"] ?? "").split(";")[0].trim().toLowerCase();
  if (type !== BATCH || request.headers["content-encoding"] !== undefined)
    throw new Problem(415, "unsupported-content", `send ${BATCH}`);
  let events;
  try {
    events = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch (error) {
    throw malformed(String(error));
  }
  if (!Array.isArray(events)) throw malformed("a batch is a list");
  if (events.length > MOST_MESSAGES)
    throw new Problem(413, "too-many-messages", `at most ${MOST_MESSAGES}`);
  events.forEach((event, at) => {
    const wrong = Object.keys(ATTRIBUTES).find((it) => !ATTRIBUTES[it](event?.[it]));
    if (wrong) throw malformed(`the attribute ${wrong} of event ${at} is missing or wrong`);
  });
  return events;
}

const text = (most) => (it) =>
  typeof it === "string" && it.length > 0 && it.length <= most && !/\p{Cc}/u.test(it);
const time = (it) => typeof it === "string" && TIME.test(it) && !Number.isNaN(Date.parse(it));
const optional = (fits) => (it) => it === undefined || fits(it);
const ATTRIBUTES = {
  specversion: (it) => it === "1.0",
  id: isId,
  source: text(100),
  type: text(100),
  partitionkey: text(200),
  time,
  data: (it) => it !== undefined,
  correlationid: optional(isId),
  causationid: optional(isId),
  runnumber: optional(isId),
  replyto: optional(text(100)),
  undoes: optional((it) => typeof it === "string" && it.split(" ").every(isId)),
  expirytime: optional(time),
  expiresin: optional((it) => typeof it === "string" && /^-?\d{1,15}$/.test(it)),
  due: optional(time),
};

function replyEvent(name, event, data) {
  return {
    specversion: "1.0",
    id: newId(),
    source: name,
    type: "sagabox.reply.v1",
    time: new Date().toISOString(),
    partitionkey: event.partitionkey,
    correlationid: event.correlationid,
    causationid: event.id,
    datacontenttype: "application/json",
    data,
  };
}

export function newId() {
  const hex = Date.now().toString(16).padStart(12, "0") + randomBytes(10).toString("hex");
  const third = `7${hex.slice(13, 16)}`;
  const fourth = "89ab"[parseInt(hex[16], 16) & 3] + hex.slice(17, 20);
  return [hex.slice(0, 8), hex.slice(8, 12), third, fourth, hex.slice(20)].join("-");
}
