"""What the audit starts to put things right, in which order, and what it makes of the ends."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import httpx

import articles.invariants
import comments.invariants
from orchestrator.cli.audit.divergences import Divergence
from orchestrator.cli.audit.repair import Planned, carry_out, plan
from orchestrator.cli.audit.rules import together
from orchestrator.cli.processes.services import BLOG_SAGAS
from orchestrator.cli.terminal.client import Api
from orchestrator.discovery import discover
from outbox.invariants import Invariants, Repair, Rule, Wrong
from tests.support.blog.blog import new_id
from tests.support.outbox.parcels import DEPOT, SHOP

BLOG = together([articles.invariants.INVARIANTS, comments.invariants.INVARIANTS])


def of(invariants: Invariants, code: str) -> Wrong:
    """What that service declares under this code."""
    rules: Iterable[Rule] = invariants.rules
    declared = [it for rule in rules for it in vars(rule).values() if isinstance(it, Wrong)]
    (wrong,) = (it for it in declared if it.code == code)
    return wrong


@dataclass
class Slow:
    """An orchestrator whose runs end when they were looked at twice; one at a time for each key."""

    end: str = "COMPLETED"
    looks: int = 2
    started: list[str] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        *_, last = request.url.path.split("/")
        if request.method == "POST":
            key = json.loads(request.content)["article_id"]
            if any(self.keys[id_] == key and self.left[id_] for id_ in self.keys):
                problem = {"status": 409, "detail": "-", "next_step": "-", "code": "saga-active"}
                return httpx.Response(409, json=problem)
            last = new_id()
            self.started.append(key)
            self.keys[last], self.left[last] = key, self.looks
            return httpx.Response(202, json={"id": last})
        self.left[last] = max(0, self.left[last] - 1)
        ended = None if self.left[last] else "2030-01-01T12:00:00Z"
        status = self.end if ended or self.end == "STUCK" else "RUNNING"
        return httpx.Response(200, json={"ended_at": ended, "status": status})


def api(orchestrator: Slow) -> Api:
    client = httpx.Client(base_url="http://o", transport=httpx.MockTransport(orchestrator))
    return Api("http://o", client)


def release(article: str, holder: str) -> Planned:
    return Planned("s", "article", article, {"article_id": article, "holder": holder})


def test_repairs_of_one_entity_come_one_after_the_other() -> None:
    orchestrator = Slow()
    planned = [release("a", "1"), release("a", "2"), release("b", "1"), release("a", "3")]
    done = carry_out(api(orchestrator), planned, timeout=5, pause=lambda _: None)
    assert {it.status for it in done} == {"COMPLETED"}
    assert orchestrator.started == ["a", "b", "a", "a"]


def test_a_run_that_was_active_already_is_told_as_that() -> None:
    orchestrator = Slow(looks=10)
    (first,) = carry_out(api(orchestrator), [release("a", "1")], timeout=0, pause=lambda _: None)
    assert (first.saga_id is None, first.status) == (False, None)  # not in time
    (second,) = carry_out(api(orchestrator), [release("a", "1")], timeout=0, pause=lambda _: None)
    assert (second.saga_id, second.status) == (None, None)


def test_a_run_that_is_stuck_is_not_waited_for() -> None:
    orchestrator = Slow(end="STUCK", looks=10**9)
    (done,) = carry_out(api(orchestrator), [release("a", "1")], timeout=60, pause=lambda _: None)
    assert done.status == "STUCK"


def test_each_repair_is_planned_once_with_what_its_saga_takes() -> None:
    article, saga = new_id(), new_id()
    hidden = of(articles.invariants.INVARIANTS, "hidden-article")
    closed = of(comments.invariants.INVARIANTS, "closed-thread")
    lost = of(comments.invariants.INVARIANTS, "thread-not-open")
    planned = plan(
        [
            Divergence("article", article, hidden, saga),
            Divergence("article", article, closed, saga),
            Divergence("article", article, lost),
            Divergence("article", article, hidden, None),  # no run to release it from
        ],
        BLOG,
    )
    assert [(it.saga, it.input) for it in planned] == [
        ("release-article", {"article_id": article, "holder": saga})
    ]


def test_the_id_goes_into_the_input_as_its_keeper_has_it() -> None:
    wrong = Wrong("late", "it is there", Repair("pack", id="order"))
    (planned,) = plan([Divergence("order", "7", wrong)], together([SHOP, DEPOT]))
    assert planned.input == {"order": 7}


def test_the_sagas_that_repair_the_blog_come_along() -> None:
    sagas = {it.name: it for it in discover(BLOG_SAGAS)}
    for invariants in (articles.invariants.INVARIANTS, comments.invariants.INVARIANTS):
        for rule in invariants.rules:
            for wrong in vars(rule).values():
                if isinstance(wrong, Wrong) and (repair := wrong.repair) is not None:
                    takes = set(sagas[repair.saga].state.__dataclass_fields__)
                    assert takes == {it for it in (repair.id, repair.trace) if it is not None}
