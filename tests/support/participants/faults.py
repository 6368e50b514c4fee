"""Faults to plant into the example participant, each with the trial that is there to find it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.participants.node import Patch


@dataclass(frozen=True)
class Fault:
    """A fault: what is wrong, the trial that finds it, and the changes of the source."""

    what: str
    trial: str
    patches: tuple[Patch, ...]

    def __str__(self) -> str:
        return f"{self.trial}: {self.what}"


def _inbox(what: str, trial: str, *changes: tuple[str, str]) -> Fault:
    return Fault(what, trial, tuple(Patch("inbox.mjs", old, new) for old, new in changes))


def _door(what: str, trial: str, *changes: tuple[str, str]) -> Fault:
    return Fault(what, trial, tuple(Patch("door.mjs", old, new) for old, new in changes))


def _journal(what: str, trial: str, *changes: tuple[str, str]) -> Fault:
    return Fault(what, trial, tuple(Patch("journal.mjs", old, new) for old, new in changes))


_KNOWN = "if (row) return known(row, own);"
_LOOK = "  // The replies to the events"
_RECEIVED = "const replies = inbox.receive(events);"
_HOLDING = '["failed", "locked", "ongoing", "not-attempted"]'
_OWN_ROW = "const row = tx.get(`row ${event.id}`);"
_ACTIONS_ROW = "const action = tx.get(`row ${id}`);"
# A look at the rows when the request comes, which is used in place of the rows themselves.
_LOOKING = (
    _LOOK,
    """  look(events) {
    const tx = this.#journal.begin();
    const ids = events.flatMap((event) => [event.id, ...namesOf(event)]);
    this.seen = new Map(ids.map((id) => [id, tx.get(`row ${id}`)]));
    return this.seen;
  }
  // The replies to the events""",
)
_AT_ONCE = (
    _RECEIVED,
    """const seen = inbox.look(events);
      await new Promise((resolve) => setTimeout(resolve, 300));
      inbox.seen = seen;
      const replies = inbox.receive(events);""",
)
_IN_THE_BATCH = (_RECEIVED, f"inbox.look(events);\n      {_RECEIVED}")
_BY_LOOK = (_OWN_ROW, "const row = this.seen.get(event.id);")
_ACTIONS_BY_LOOK = (_ACTIONS_ROW, "const action = this.seen.get(id);")


def _racing(trial: str, what: str, how: tuple[str, str], *changes: tuple[str, str]) -> Fault:
    inbox = [Patch("inbox.mjs", old, new) for old, new in (_LOOKING, *changes)]
    return Fault(what, trial, (*inbox, Patch("door.mjs", *how)))


FAULTS = (
    # The request
    _door(
        "a reply is missing",
        "takes-a-batch",
        (
            "response.end(JSON.stringify(events.map(",
            "response.end(JSON.stringify(events.slice(1).map(",
        ),
    ),
    _door(
        "replies name no message",
        "takes-a-batch",
        ("causationid: event.id", "causationid: newId()"),
    ),
    _door(
        "the answer is plain JSON",
        "takes-a-batch",
        ('{ "content-type": BATCH }', '{ "content-type": "application/json" }'),
    ),
    _door("any id is taken", "malformed-events", ("  id: isId,", "  id: text(100),")),
    _door("a time needs no zone", "malformed-events", ("  time,\n", "  time: text(100),\n")),
    _door(
        "the good events of a bad batch take effect",
        "malformed-events",
        ("    if (wrong) throw", "    if (wrong && at === 0) throw"),
    ),
    _door(
        "what is no list is an empty batch",
        "no-batch",
        ('throw malformed("a batch is a list")', "return []"),
    ),
    _door("bytes that are no UTF-8 are read", "no-batch", ("{ fatal: true }", "{}")),
    _door("every content type is taken", "other-content-types", ("type !== BATCH ||", "")),
    _door(
        "a content encoding is overlooked",
        "other-content-types",
        (' || request.headers["content-encoding"] !== undefined', ""),
    ),
    _door(
        "bodies of any size are read",
        "large-bodies",
        ("MOST_BYTES = 1024 * 1024", "MOST_BYTES = 2 ** 40"),
    ),
    _door(
        "only short bodies are read",
        "large-bodies",
        ("MOST_BYTES = 1024 * 1024", "MOST_BYTES = 512 * 1024"),
    ),
    _door(
        "any number of messages is taken",
        "many-messages",
        ("MOST_MESSAGES = 500", "MOST_MESSAGES = 5000"),
    ),
    _door(
        "only small batches are taken",
        "many-messages",
        ("MOST_MESSAGES = 500", "MOST_MESSAGES = 100"),
    ),
    _inbox(
        "data of any size is taken",
        "large-messages",
        ("MOST_BYTES = 256 * 1024", "MOST_BYTES = 2 ** 40"),
    ),
    _door(
        "unknown attributes are refused",
        "unknown-parts",
        (
            "    const wrong = ",
            '    if ("newattribute" in event) throw malformed("newattribute");\n    const wrong = ',
        ),
    ),
    Fault(
        "large numbers are taken for other ones",
        "odd-json",
        (Patch("participant.mjs", "number: Number.isSafeInteger", "number: Number.isInteger"),),
    ),
    _inbox(
        "an unknown type is done",
        "unknown-types",
        ('return rejected("unknown-type",', "return done("),
    ),
    _inbox(
        "an unknown type holds nothing",
        "unknown-types",
        ('    : reply.code === "unknown-type";', "    : false;"),
    ),
    _inbox(
        "the version is overlooked",
        "unknown-types",
        ("this.#handlers.get(event.type)", 'this.#handlers.get(event.type.replace("v2", "v1"))'),
    ),
    _inbox("any data is taken", "wrong-data", ("if (!handler.fits(event.data))", "if (false)")),
    _inbox("replies may go elsewhere", "wrong-data", ("event.replyto !== event.source", "false")),
    _inbox(
        "wrong data holds its key",
        "wrong-data",
        ('    : reply.code === "unknown-type";', '    : reply.outcome === "rejected";'),
    ),
    _door(
        "an unreadable statement fails the request",
        "statements",
        (
            "      const events =",
            """      const said = request.headers["sagabox-settled"] ?? newId();
      if (!isId(said.split(";")[0])) throw new Problem(400, "malformed-envelope", said);
      const events =""",
        ),
    ),
    Fault(
        "a run that has ended is forgotten at once",
        "statements",
        (
            Patch(
                "inbox.mjs", _KNOWN, "if (row && !(this.ended > own.saga)) return known(row, own);"
            ),
            Patch(
                "door.mjs",
                _RECEIVED,
                f'inbox.ended = request.headers["sagabox-settled"];\n{_RECEIVED}',
            ),
        ),
    ),
    # The signature
    _door(
        "what is not signed is taken",
        "unsigned",
        (
            "  const get = (header)",
            '  if (!signed.has("sagabox-signature")) return;\n  const get = (header)',
        ),
    ),
    _door(
        "the signature is not compared",
        "wrong-secret",
        ("timingSafeEqual(given, Buffer.from(expected))", "true"),
    ),
    _door(
        "an unknown key counts as the first one",
        "wrong-secret",
        ('keys.get(get("sagabox-key-id"))', "[...keys.values()][0]"),
    ),
    _door("no time is too old", "stale", ("Math.abs(age) <= WINDOW", "-age <= WINDOW")),
    _door(
        "no time is too far in the future", "stale", ("Math.abs(age) <= WINDOW", "age <= WINDOW")
    ),
    _door("the window is a minute", "stale", ("WINDOW = 300", "WINDOW = 60")),
    _door("another path is taken", "other-path", ("if (target !== request.url)", "if (false)")),
    _door(
        "the path is not signed",
        "other-path",
        ("    target,\n", '    get("sagabox-target"),\n'),
        (
            'const target = signed.has("sagabox-target") ? get("sagabox-target") : request.url;',
            "const target = request.url;",
        ),
    ),
    _door("it takes what is for others", "other-path", ('get("ce-sagaboxto") !== name', "false")),
    _door(
        "the body is not signed",
        "changed-on-the-way",
        (".update(body).digest", '.update(request.headers["x"] ?? body).digest'),
        (
            "const body = await bodyOf(request);",
            'const body = await bodyOf(request);\n      request.headers["x"] = SEEN ??= body;',
        ),
        ("const WINDOW", "let SEEN;\nconst WINDOW"),
    ),
    _door(
        "ce- headers are not signed",
        "changed-on-the-way",
        ('it.startsWith("ce-")', 'it === "ce-sagaboxto"'),
    ),
    _door(
        "a statement may be added",
        "changed-on-the-way",
        ('    get("sagabox-settled"),\n', '    "",\n'),
    ),
    _door(
        "only the first key is valid",
        "each-key",
        ('new Map(secrets.split(",")', 'new Map(secrets.split(",").slice(0, 1)'),
    ),
    _door(
        "it takes what is for another store",
        "another-database",
        ('(request.headers["ce-sagaboxdatabase"] ?? database) !== database', "false"),
    ),
    _door(
        "its store has another id with each answer",
        "another-database",
        ('"sagabox-database", database', '"sagabox-database", newId()'),
    ),
    # Duplicates
    _inbox("a copy takes effect again", "duplicate", (_KNOWN, "")),
    _inbox(
        "a copy is done, also after a refusal",
        "duplicate",
        (
            "  return row.reply;\n}\n\nfunction problemOf",
            "  return done();\n}\n\nfunction problemOf",
        ),
    ),
    _racing("duplicate-in-a-batch", "the rows are read once for a batch", _IN_THE_BATCH, _BY_LOOK),
    _racing("duplicates-at-once", "it looks, and acts later", _AT_ONCE, _BY_LOOK),
    _racing("crosswise-batches", "it looks, and acts later", _AT_ONCE, _BY_LOOK),
    _inbox(
        "the content is not compared",
        "reused-id",
        ("if (row.fingerprint !== own.fingerprint)", "if (false)"),
    ),
    _inbox("the run is not compared", "reused-id", ("if (row.saga !== own.saga)", "if (false)")),
    _inbox("the order of fields counts", "reused-id", ("sorted(data)];", "data];")),
    _inbox(
        "the key does not count",
        "reused-id",
        ("const parts = [type, partitionkey,", "const parts = [type,"),
    ),
    _inbox(
        "what was refused stays",
        "refusal",
        ('return store("refused", reply, this.#journal.begin())', 'return store("refused", reply)'),
    ),
    _inbox(
        "a refusal holds its key",
        "refusal",
        (_HOLDING, '["failed", "locked", "ongoing", "not-attempted", "refused"]'),
    ),
    _inbox(
        "what is old never runs",
        "old-messages",
        (
            "if (event.expirytime === undefined) return false;",
            'if (event.due < "2021") return true;\n'
            "  if (event.expirytime === undefined) return false;",
        ),
    ),
    # Batches
    _inbox(
        "a batch is run from its end",
        "mixed-keys",
        ("events.map((event) => {", "[...events].reverse().map((event) => {"),
        (
            "    this.#journal.flush();\n    return replies;",
            "    this.#journal.flush();\n    return replies.reverse();",
        ),
    ),
    _inbox(
        "a failure holds nothing",
        "partial-failure",
        (_HOLDING, '["locked", "ongoing", "not-attempted"]'),
    ),
    _inbox(
        "a failure holds every key",
        "partial-failure",
        ("const lane = `${namesOf(event).length > 0} ${event.partitionkey}`", 'const lane = "all"'),
    ),
    _inbox(
        "what failed stays",
        "partial-failure",
        ("const reply = handler.run(tx,", "const reply = this.ran(handler, tx,"),
        (
            _LOOK,
            """  ran(handler, tx, ...rest) {
    try {
      return handler.run(tx, ...rest);
    } catch (error) {
      tx.commit();
      throw error;
    }
  }
  // The replies to the events""",
        ),
    ),
    _inbox(
        "a lock is kept as the answer",
        "locked",
        (
            'if (reply.outcome === "locked") return reply;',
            'if (reply.outcome === "locked") return store("ran", reply, this.#journal.begin());',
        ),
    ),
    _inbox(
        "what was locked stays",
        "locked",
        (
            'if (reply.outcome === "locked") return reply;',
            'if (reply.outcome === "locked") {\n      tx.commit();\n      return reply;\n    }',
        ),
    ),
    _inbox(
        "undos have no lane of their own",
        "undo-passes-a-failure",
        ("`${namesOf(event).length > 0} ${event.partitionkey}`", "event.partitionkey"),
    ),
    # Expiry
    _inbox(
        "nothing expires", "expired", ("namesOf(event).length === 0 && isExpired(event)", "false")
    ),
    _inbox(
        "its own clock counts",
        "expired",
        ("  if (event.expiresin !== undefined) return Number(event.expiresin) <= 0;\n", ""),
    ),
    _inbox(
        "what expired is not barred",
        "expired",
        (
            'return store("barred", told("expired", "it came too late"));',
            'return told("expired", "it came too late");',
        ),
    ),
    _inbox(
        "an undo expires",
        "undo-after-its-time",
        ("namesOf(event).length === 0 && isExpired(event)", "isExpired(event)"),
    ),
    # Undo
    _inbox(
        "what was undone may run again",
        "undo",
        (
            'for (const id of undoes) tx.put(`row ${id}`, { state: "undone", by: event.id });',
            "for (const id of undoes) tx.put(`row ${id}`, null);",
        ),
    ),
    _inbox(
        "an undo that comes first bars nothing",
        "undo-before-action",
        ("if (!action ||", "if ((!action && event.type === VOID) ||"),
    ),
    _inbox(
        "a barred action counts as one that ran",
        "undo-before-action",
        (
            '["ran", "pending"].includes(action.state)',
            '["ran", "pending", "barred"].includes(action.state)',
        ),
    ),
    _inbox(
        "a refused action is undone",
        "undo-of-a-refusal",
        (
            '["ran", "pending"].includes(action.state)',
            '["ran", "pending", "refused"].includes(action.state)',
        ),
    ),
    _inbox(
        "only the last attempt is undone",
        "undo-of-several",
        ("for (const id of namesOf(event)) {", "for (const id of namesOf(event).slice(0, 1)) {"),
    ),
    _racing(
        "undo-in-one-batch", "the rows are read once for a batch", _IN_THE_BATCH, _ACTIONS_BY_LOOK
    ),
    _racing("undo-races", "it looks, and acts later", _AT_ONCE, _ACTIONS_BY_LOOK, _BY_LOOK),
    _inbox("any run may undo", "undo-of-another-run", ("action.saga !== own.saga)", "false)")),
    _inbox(
        "a command may undo itself",
        "odd-undos",
        ('if (namesOf(event).includes(event.id)) return "it undoes itself";', ""),
    ),
    _inbox(
        "a command may undo any number", "odd-undos", ("MOST_UNDOES = 500", "MOST_UNDOES = 50000")
    ),
    _inbox(
        "a void bars nothing",
        "void",
        ("bars.push(id);", "event.type === VOID || bars.push(id);"),
    ),
    _inbox(
        "a refusal is not kept",
        "void",
        ('return store("refused", reply, this.#journal.begin());', "return reply;"),
    ),
    # Later
    _inbox(
        "what is pending leaves no effect",
        "pending",
        (
            'return store("pending", { ...reply, retry_after: 1, value });',
            'return store("pending", { ...reply, retry_after: 1, value }, this.#journal.begin());',
        ),
    ),
    _inbox("what is pending holds its key", "pending", ("? !isPending(reply)", "? true")),
    _inbox(
        "a completion is not kept",
        "pending",
        (
            'tx.put(`row ${id}`, { ...row, state: "ran"',
            'tx.put(`row ${id} later`, { ...row, state: "ran"',
        ),
    ),
    _inbox(
        "any second completion is taken",
        "pending",
        ('? undefined : "already-answered"', "? undefined : undefined"),
    ),
    _inbox(
        "a later refusal looks like a usual one",
        "refused-after-pending",
        ("{ after_pending: true }", "{}"),
    ),
    _inbox(
        "a later refusal is refused for the barrier",
        "refused-after-pending",
        (
            'state: "ran", reply: { ...reply, ...after }',
            'state: reply.outcome === "refused" ? "refused" : "ran", reply: { ...reply, ...after }',
        ),
    ),
    _inbox(
        "a completion undoes an undo",
        "undo-of-pending",
        ('if (["barred", "undone"].includes(row.state)) return "too-late";', ""),
    ),
    Fault(
        "it looks, and acts later",
        "completion-races",
        (
            Patch(
                "inbox.mjs",
                _LOOKING[0],
                _LOOKING[1].replace("event.id,", "event.id, event.data.command,"),
            ),
            Patch(
                "inbox.mjs",
                "const row = tx.get(`row ${id}`);",
                "const row = globalThis.seen.get(id);",
            ),
            Patch(
                "door.mjs", _AT_ONCE[0], _AT_ONCE[1].replace("inbox.seen =", "globalThis.seen =")
            ),
        ),
    ),
    _inbox(
        "a void leaves the pending",
        "void-of-pending",
        ('(event.type === VOID && action.state === "pending")', "false"),
    ),
    # Durability
    _journal(
        "nothing is written", "restart", ("if (this.#unwritten.length === 0) return;", "return;")
    ),
    _journal(
        "bars are not written",
        "undo-across-a-restart",
        (
            "this.#unwritten.push(...writes)",
            "this.#unwritten.push(...[...writes].filter((it) => !it[1]?.by))",
        ),
    ),
    _journal(
        "effects are written, rows later",
        "restart-in-the-middle",
        (
            "this.#unwritten.push(...writes)",
            'this.#unwritten.push(...[...writes].filter((it) => it[0].startsWith("account")))',
        ),
    ),
    _journal(
        "it writes now and then",
        "restart-in-the-middle",
        ("if (this.#unwritten.length === 0) return;", "if (this.#unwritten.length < 50) return;"),
    ),
)
"""All of them. Each trial has one at least."""
