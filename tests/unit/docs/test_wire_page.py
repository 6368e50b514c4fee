"""The wire contract is that of the code: its tables, its test vectors, and what it says of the
trials."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import orjson
import pytest

from orchestrator.testing.conforming import contract
from orchestrator.testing.conforming.running import TRIALS
from outbox.contract import CommandAnswered, SagaEnded, StartSaga, Void
from outbox.inbox.batches import holds_key
from outbox.inbox.rows import State
from outbox.messages import reply_type, type_of
from outbox.replies import PENDING, Outcome, Reply
from outbox.transports.base import Answered, Unacceptable, Unreachable
from outbox.transports.http import signing
from outbox.transports.http.posting import Answer
from outbox.transports.http.signing import TARGET_HEADER, TO_HEADER, Keyring, sign, verify
from outbox.transports.http.transport import read_answer
from outbox.wire import reply_json, strict_json
from outbox.wire.attributes import quoted
from outbox.wire.envelope import (
    BATCH,
    Envelope,
    fingerprint,
    from_batch,
    replies_from_batch,
    replies_to_batch,
    to_batch,
)
from outbox.wire.settled import ORIGIN_HEADER, SETTLED_HEADER, EndedSagas
from tests.support.checkout import ROOT
from tests.support.outbox.envelopes import a_full_envelope
from tests.support.repository.manual import blocks

PAGE = ROOT / "docs" / "reference" / "wire.md"
TEXT = PAGE.read_text()
HEADINGS = re.findall(r"^## (.+)$", TEXT, re.M)

KEYS = Keyring({"k1": bytes(range(32))}, "k1")
NOW = datetime.fromtimestamp(1_900_000_000, UTC)
RUN = "019b76da-a800-7000-8000-00000000000a"
ADD = Envelope(
    id="019b76da-a801-7000-8000-000000000001",
    source="orchestrator",
    type="conform.add.v1",
    key=f"{RUN}/add",
    time=datetime(2026, 1, 1, tzinfo=UTC),
    data=b'{"account":"ada","amount":5}',
    correlation=RUN,
    reply_to="orchestrator",
    due=datetime(2026, 1, 1, tzinfo=UTC),
    run_number=RUN,
)
UNDO = replace(
    ADD,
    id="019b76da-a802-7000-8000-000000000002",
    type="conform.remove.v1",
    data='{"note":"zurück","account":"ada"}'.encode(),
    undoes=("019b76da-a801-7000-8000-000000000003", ADD.id),
    expires=datetime(2026, 1, 1, 0, 0, 30, 500_000, tzinfo=UTC),
    expires_in=30_000,
)
REPLY_ID = "019b76da-a803-7000-8000-000000000004"


def rows(name: str) -> list[list[str]]:
    """The cells of the table between these marks, without its head."""
    table = TEXT.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- end of {name} -->")[0]
    lines = table.strip().splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", it)[1:-1]] for it in lines]


def words(name: str, column: int = 0) -> list[str]:
    """The names in code of that column."""
    return [row[column].strip("`") for row in rows(name)]


def vector(name: str) -> str:
    """The block of that name, without the end of its last line."""
    found = re.search(rf"^<!-- vector: {name} -->\n```\n(.*?)\n```$", TEXT, re.M | re.S)
    assert found is not None, name
    return found[1]


def request(target: str, to: str, settled: str | None = None) -> dict[str, str]:
    """The headers of a request that are signed, and those that say how."""
    headers = {"content-type": BATCH, TARGET_HEADER: target, TO_HEADER: quoted(to)}
    return headers if settled is None else {**headers, SETTLED_HEADER: settled}


def signed_lines(headers: Mapping[str, str], target: str, body: bytes) -> str:
    """What is signed, by the table of the page alone."""
    low = {name.lower(): value for name, value in headers.items()}
    lines = [
        "sagabox-signature-v1",
        "POST",
        target,
        str(int(NOW.timestamp())),
        "k1",
        low["content-type"],
        low.get("sagabox-settled", ""),
        hashlib.sha256(body).hexdigest(),
        *(f"{name}:{low[name]}" for name in sorted(low) if name.startswith("ce-")),
    ]
    return "\n".join(lines)


def vectors() -> dict[str, str]:
    """The test vectors, as the code makes them."""
    found: dict[str, str] = {}
    settled = EndedSagas(RUN, frozenset({"019b76da-a000-7000-8000-00000000000b"})).to_header()
    for prefix, envelope, target, headers in (
        ("", ADD, "/messages", request("/messages", "conform")),
        ("undo ", UNDO, "/bank/messages", request("/bank/messages", "zürich", settled)),
    ):
        body = to_batch([envelope])
        lines = signed_lines(headers, target, body)
        signature = hmac.digest(KEYS.signing_secret, lines.encode(), "sha256").hex()
        found[f"{prefix}body"] = body.decode()
        found[f"{prefix}signed lines"] = lines
        found[f"{prefix}signature"] = signature
    reply = Reply(Outcome.DONE, value={"balance": 5})
    found["answer"] = replies_to_batch("conform", [ADD], [reply], lambda: REPLY_ID, NOW).decode()
    head = orjson.dumps([UNDO.type, UNDO.key, sorted(UNDO.undoes)])
    data = strict_json.dumps(strict_json.loads(UNDO.data), sort_keys=True)
    found["fingerprint bytes"] = (head + data).decode()
    found["fingerprint"] = fingerprint(UNDO).hex()
    return found


@pytest.mark.parametrize("name", list(vectors()))
def test_a_vector_is_what_the_code_makes(name: str) -> None:
    assert vector(name) == vectors()[name]


@pytest.mark.parametrize("prefix", ["", "undo "])
def test_a_receiver_accepts_the_request_of_the_vectors(prefix: str) -> None:
    body = vector(f"{prefix}body").encode()
    lines = vector(f"{prefix}signed lines").split("\n")
    _, method, target, timestamp, key_id, content_type, settled, digest, *covered = lines
    assert digest == hashlib.sha256(body).hexdigest()
    headers = {
        "Content-Type": content_type,
        "Sagabox-Timestamp": timestamp,
        "Sagabox-Key-Id": key_id,
        "Sagabox-Signature": vector(f"{prefix}signature"),
        **dict(line.split(":", 1) for line in covered),
        **({"Sagabox-Settled": settled} if settled else {}),
    }
    given: dict[str, Any] = {"method": method, "target": target, "body": body}
    assert verify(KEYS, headers=headers, now=NOW, **given) == "k1"
    made = sign(KEYS, headers=headers, now=NOW, **given)
    assert made["Sagabox-Signature"] == vector(f"{prefix}signature")
    assert from_batch(body) == [UNDO if prefix else ADD]


def test_a_sender_reads_the_answer_of_the_vectors() -> None:
    (reply,) = replies_from_batch(vector("answer").encode(), [ADD.id])
    assert reply == Reply(Outcome.DONE, value={"balance": 5})


def test_the_fingerprint_of_the_vectors_is_that_of_their_bytes() -> None:
    shown = hashlib.sha256(vector("fingerprint bytes").encode()).hexdigest()
    assert shown == vector("fingerprint")


def test_the_attributes_are_those_of_an_envelope() -> None:
    full = a_full_envelope(due=NOW, run_number=RUN)
    (event,) = orjson.loads(to_batch([full]))
    assert sorted(words("attributes")) == sorted(event)


def test_an_attribute_must_be_there_if_the_page_says_so() -> None:
    full = a_full_envelope(due=NOW, run_number=RUN)
    (event,) = orjson.loads(to_batch([full]))
    for name, must, _ in rows("attributes"):
        without = {key: value for key, value in event.items() if key != name.strip("`")}
        body = orjson.dumps([without])
        try:
            from_batch(body)
            is_needed = False
        except Exception:
            is_needed = True
        assert must == ("yes" if is_needed else "no"), name


def test_every_header_of_the_transport_is_there() -> None:
    section = TEXT.partition("\n## The request\n")[2].partition("\n## ")[0]
    named = re.findall(
        r"`([\w-]+)`", "".join(it.split("|")[1] for it in section.splitlines() if "|" in it)
    )
    own = [value for name, value in vars(signing).items() if name.endswith("_HEADER")]
    assert sorted({*own, SETTLED_HEADER, ORIGIN_HEADER} - {signing.DATABASE_HEADER}) == sorted(
        it for it in named if it.lower().startswith(("sagabox-", "ce-"))
    )
    assert f"`{signing.DATABASE_HEADER}`" in TEXT


def test_the_signed_lines_are_named_in_their_order() -> None:
    told = [what for _, what in rows("signed lines")]
    assert [re.findall(r"`(.+?)`", it)[0] for it in told[3:7]] == [
        "Sagabox-Timestamp",
        "Sagabox-Key-Id",
        "Content-Type",
        "Sagabox-Settled",
    ]
    assert told[0] == "`sagabox-signature-v1`"


def test_what_a_sender_does_with_each_status_is_what_the_page_says() -> None:
    for status, _, what in rows("statuses"):
        answer = Answer(int(status), {}, vector("answer").encode())
        match read_answer(answer, [ADD.id], NOW):
            case Answered():
                assert "its reply" in what
            case Unacceptable():
                assert "buries" in what or what == "as 400"
            case Unreachable(sent=sent):
                assert what.startswith("in doubt" if sent else "nothing was taken"), status
            case other:
                raise AssertionError(other)
    busy = Answer(503, {}, orjson.dumps({"code": "too-busy"}))
    told = read_answer(busy, [ADD.id], NOW)
    assert isinstance(told, Unreachable)
    assert not told.sent


def test_every_outcome_is_there_and_holds_its_key_as_the_page_says() -> None:
    found = rows("outcomes")
    assert {it[0].strip("`") for it in found} == set(Outcome)
    for outcome, code, definite, holds, _ in found:
        reply = Reply(Outcome(outcome.strip("`")), code=code.strip("`") or None)
        assert definite == ("yes" if reply.outcome.is_final else "no"), outcome
        assert holds == ("yes" if holds_key(reply) else "no"), (outcome, code)
    assert f"`{PENDING}`" in [it[1] for it in found]


def test_the_fields_of_a_reply_are_those_that_are_written() -> None:
    section = TEXT.partition("\n## Replies\n")[2].partition("<!-- outcomes -->")[0]
    told = re.findall(r"^\| `(\w+)` \|", section, re.M)
    whole = Reply(Outcome.REFUSED, 1, "code", "reason", 1.0, after_pending=True)
    assert told == list(reply_json.value_of(whole)) == [it.name for it in fields(Reply)]


def test_the_states_of_a_row_are_those_of_the_inbox() -> None:
    assert words("states") == [it.value for it in State]


def test_the_limits_are_those_of_the_code() -> None:
    for what, limit, _, where in rows("limits"):
        path, _, name = where.strip("`").rpartition(".")
        module, _, owner = path.rpartition(".")
        of_class = owner[0].isupper()
        place = getattr(import_module(module), owner) if of_class else import_module(path)
        value = getattr(place, name)
        texts = {f"{value:g}", f"{value:,}"}
        if value % 1024 == 0:
            texts |= {f"{value // 1024} KiB", f"{value // 1024**2} MiB"}
        assert limit in texts, (what, limit, value)


def test_the_trial_commands_are_those_of_the_contract() -> None:
    told = rows("trial commands")
    assert len(told) == len(contract.COMMANDS)
    for (type_, data, _, value), command in zip(told, contract.COMMANDS, strict=True):
        assert type_.strip("`") == str(type_of(command))
        assert re.findall(r"`(\w+)`", data) == [it.name for it in fields(command)]
        answer = reply_type(command)
        names = [] if answer is type(None) else [it.name for it in fields(answer)]
        assert re.findall(r"`(\w+)`", value) == names


def test_every_trial_is_told_with_the_section_that_it_tries() -> None:
    assert [(trial.name, trial.what, trial.section) for trial in TRIALS] == [
        (name.strip("`"), what, re.findall(r"\[(.+)\]", section)[0])
        for name, what, section in rows("trials")
    ]
    assert {it.section for it in TRIALS} <= set(HEADINGS)


def test_what_a_participant_sends_is_what_the_orchestrator_takes() -> None:
    section = TEXT.partition("\n## What a participant sends\n")[2].partition("\n## ")[0]
    table = [
        re.findall(r"`(?:data\.)?(\w+)`", it.split("|")[1])
        for it in section.splitlines()
        if "|" in it
    ]
    named = [name for row in table[5:] for name in row]
    assert named == [it.name for it in fields(CommandAnswered)]
    assert f"`{type_of(CommandAnswered)}`" in section
    assert f"`{type_of(StartSaga)}`" in section
    assert f"`{type_of(SagaEnded)}`" in section
    told = {it.name for it in fields(StartSaga)} - {"begin_at"}
    assert told <= set(re.findall(r"`(\w+)`", section))


def test_a_void_is_told_as_the_contract_has_it() -> None:
    section = TEXT.partition("\n## Void\n")[2].partition("\n## ")[0]
    assert f"`{type_of(Void)}`" in section
    assert {it.name for it in fields(Void)} <= set(re.findall(r"`(\w+)`", section))


def test_the_page_has_no_block_that_nothing_checks() -> None:
    assert len(blocks("docs/reference/wire.md", "")) == len(vectors())
