"""The specification and the code name the same things, and the inbox does what its table says."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from datetime import timedelta
from typing import get_args

import pytest

from orchestrator.machine.instance import Direction, Status, StepStatus, Wait
from orchestrator.machine.signals import OperatorSignal, Signal
from orchestrator.testing import Faults, What
from orchestrator.testing.exploring.model.promises import MEANINGS
from orchestrator.testing.virtual.chances import Fault
from outbox.inbox.barrier import conclude, decide
from outbox.inbox.pending.pended import Pended
from outbox.inbox.retention import NOTHING_FORGOTTEN, Forgotten
from outbox.inbox.rows import Again, Answer, Change, Row, Run, State
from outbox.replies import PENDING, Outcome, Reply
from tests.support.checkout import ROOT
from tests.support.outbox.dictionary_inbox import arriving
from tests.support.outbox.inboxes import START, Book, Names, Unbook

TEXT = (ROOT / "docs/internals/spec/protocol.md").read_text()
ACTIONS = re.findall(r"^- \*\*([EORIMG]\d+) ", TEXT, re.M)
PROMISES = {f"P{number}" for number in range(1, 10)}


def part(name: str) -> str:
    """What stands between the marks of that name."""
    (text,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", TEXT, re.S)
    return str(text)


def table(name: str) -> list[list[str]]:
    """The cells of that table, line by line, without its head."""
    lines = part(name).strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def words(text: str) -> list[str]:
    """What is set in code."""
    return re.findall(r"`([^`]+)`", text)


def column(name: str, number: int) -> list[str]:
    return [word for line in table(name) for word in words(line[number])]


def test_every_action_and_every_invariant_has_one_name() -> None:
    names = ACTIONS + re.findall(r"^\| \*\*([SL]\d+)\*\* \|", TEXT, re.M)
    names += re.findall(r"\*\*(V\d+)\*\*", TEXT)
    assert len(names) == len(set(names))
    for letter in "VEORIMGSL":
        numbers = sorted(int(name[1:]) for name in names if name[0] == letter)
        assert numbers == list(range(1, len(numbers) + 1)), letter
    named = set(re.findall(r"\b([VEORIMGSL]\d+)\b", TEXT))
    assert named == set(names)


def test_the_statuses_are_those_of_the_code() -> None:
    told = {line[0]: words(line[1]) for line in table("statuses")}
    kinds = {"run": Status, "direction": Direction, "step": StepStatus, "wait": Wait}
    assert told == {
        **{name: [it.value for it in kind] for name, kind in kinds.items()},
        "inbox": [it.value for it in State],
    }


def test_the_answers_and_the_signals_are_those_of_the_code() -> None:
    again, for_good = map(words, part("answers").strip().splitlines())
    assert set(again) == {it.value for it in Outcome if not it.is_final}
    assert set(for_good) == {it.value for it in Outcome if it.is_final}
    signals = {it.__name__ for it in (*get_args(Signal), *get_args(OperatorSignal))}
    assert sorted(column("signals", 0)) == sorted(signals)


def test_the_events_and_faults_are_those_of_explorer_and_simulation() -> None:
    assert sorted(column("events", 0)) == sorted(What)
    assert sorted(column("faults", 1)) == sorted(it.name for it in fields(Faults))
    assert sorted(column("faults", 2)) == sorted(it.name.lower() for it in Fault)


def test_the_crash_points_are_those_of_the_code() -> None:
    reached = re.compile(r"^\s+crashpoint\(\"([^\"]+)\"\)", re.M)
    sources = [*(ROOT / "outbox").rglob("*.py"), *(ROOT / "orchestrator").rglob("*.py")]
    found = {name for path in sources for name in reached.findall(path.read_text())}
    assert sorted(column("crash points", 0)) == sorted(found)


def test_the_invariants_are_checked_by_what_there_is() -> None:
    lines = table("invariants") + table("liveness")
    checked = " ".join(line[3] for line in lines)
    explored = re.findall(r"explore `([^`]+)`", checked)
    assert set(explored) == set(MEANINGS)
    after = re.findall(r"simulate ((?:`[^`]+`(?:, )?)+)", checked)
    raised = re.compile(r"(?:Broken|breaks)\(\s*\"([^\"]+)\"")
    folders = (ROOT / "orchestrator/testing" / it for it in ("simulating", "brokers"))
    paths = [path for folder in folders for path in folder.rglob("*.py")]
    found = {name for path in paths for name in raised.findall(path.read_text())}
    assert {word for told in after for word in words(told)} == found
    assert {line[2] for line in lines} == PROMISES


def test_each_kept_mutant_breaks_one_invariant() -> None:
    mutants = column("invariants", 4) + column("liveness", 4)
    kept = [path.stem for path in (ROOT / "tests/consistency/mutants").glob("*.patch")]
    assert sorted(mutants) == sorted(kept)


@pytest.mark.parametrize("page", ["README.md", "protocol.md"])
def test_every_link_of_the_specification_leads_somewhere(page: str) -> None:
    folder = ROOT / "docs/internals/spec"
    links = re.findall(r"\]\(([^)#]+)", (folder / page).read_text())
    assert links
    assert [it for it in links if not (folder / it).exists()] == []


# The inbox's table

REFUSED = Reply(Outcome.REFUSED, code="no", reason="it may not be")
STORED = Reply(Outcome.DONE, value=7)


_KINDS = {"action": (False,), "undo": (True,), "any": (False, True)}


@pytest.mark.parametrize(
    ("line", "is_undo"),
    [(line, is_undo) for line in table("inbox") for is_undo in _KINDS[line[0]]],
    ids=lambda it: " / ".join(it[:3]) if isinstance(it, list) else "undo" if it else "action",
)
def test_the_inbox_does_what_its_table_says(line: list[str], is_undo: bool) -> None:
    _, own, undone, happens, answer, after = line
    names = Names()
    action, before_this, id, saga, another = (names() for _ in range(5))
    arrival = arriving(
        id,
        Unbook("a") if is_undo else Book("a"),
        undoes=(action,) if is_undo else (),
        expires=START if "expired" in own else None,
        # A saga's commands have a watermark of their own, of which the table does not speak.
        correlation=saga if "saga" in own + undone else None,
    )
    of_own, of_undone = (
        another if "another saga" in it or "other saga" in it else saga for it in (own, undone)
    )
    for state in _states(own):
        found = _found(id, action, state, own, undone, arrival.fingerprint)
        found = {
            it.id: replace(it, saga=arrival.saga and (of_own if it.id == id else of_undone))
            for it in found.values()
        }
        verdict = decide(arrival, found, _forgotten(own, undone, before_this), START)
        if happens == "run":
            assert isinstance(verdict, Run)
            assert [row.id for row in verdict.undoes] == ([action] if is_undo else [])
            answers = (STORED, REFUSED, Reply(Outcome.ONGOING, code=PENDING))
            ends = [_after(conclude(arrival, verdict, it), id) for it in answers]
            assert ends == [State(it) for it in words(after)]
            continue
        if happens == "call again":
            assert isinstance(verdict, Again)
            assert verdict.pended == found[id].pended
            continue
        assert isinstance(verdict, Answer)
        if answer == "the stored one":
            assert verdict.reply == found[id].reply
        else:
            assert [verdict.reply.outcome] == words(answer)
        left = None if id in verdict.forget else _after(verdict.changes, id, found.get(id))
        expected = {"none": None, "as it was": state}.get(after)
        assert left == (State(words(after)[0]) if words(after) else expected)


def _states(own: str) -> list[State | None]:
    """The states that the line is about."""
    return [State(it) for it in words(own)] or [None]


def _found(
    id: str, action: str, state: State | None, own: str, undone: str, fingerprint: bytes
) -> dict[str, Row]:
    """The rows that were there before."""
    found = {}
    if state is not None:
        content = b"other" if "other content" in own else fingerprint
        reply = STORED if state is State.RAN else REFUSED if state is State.REFUSED else None
        found[id] = Row(id, state, content, reply, None)
        if "its call is over" in own:
            over = replace(_calling(id), until=START)
            found[id] = replace(found[id], pended=over)
    if undone.startswith("one `undoing`"):
        found[action] = Row(action, State.UNDOING, b"", STORED, Names()())
    elif undone.startswith("one `pending`"):
        found[action] = Row(action, State.PENDING, b"", None, None, pended=_calling(action))
    elif undone.startswith("one `ran`"):
        found[action] = Row(action, State.RAN, b"", STORED, None)
    elif undone == "none `ran`":
        found[action] = Row(action, State.REFUSED, b"", REFUSED, None)
    return found


def _calling(id: str) -> Pended:
    """A command whose call to the outside goes on."""
    at = START + timedelta(seconds=30)
    return Pended(
        *(id, "bank.book.v1", "sender", "sender", None, "a", None, START, START),
        holder="bank-1",
        attempt=1,
        until=at,
    )


def _forgotten(own: str, undone: str, between: str) -> Forgotten:
    """What was purged: up to the action's id, or beyond that of the message."""
    if "watermark" in own:
        return Forgotten(age="f" * 36)
    return Forgotten(age=between) if "watermark" in undone else NOTHING_FORGOTTEN


def _after(changes: tuple[Change, ...], id: str, row: Row | None = None) -> State:
    """The state of that row in the end; one that was only inserted is `ran`."""
    states = {it.id: it.state for it in changes}
    return states.get(id, State.RAN if row is None else row.state)
