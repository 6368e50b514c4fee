"""One attempt to undo by a REST call: what it asks, and what it makes of the answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator import Later, rest
from orchestrator.rest_calls.kept import Found, Kept
from orchestrator.rest_calls.meanings import InDoubt
from outbox.inbox.outside.finding_out import Unknowable, Working
from outbox.replies import Done, Refused
from tests.support.orchestrator.plain_service import (
    PlainService,
    says,
)
from tests.support.orchestrator.rest_attempts import (
    NOW,
    PROBE,
    SECONDS,
    answering,
    attempt,
    refund,
    undoing,
)


async def test_what_is_known_to_be_done_is_undone_by_its_reply() -> None:
    service = PlainService(charges={"a-1": {"id": "ch/7"}})
    result = await attempt(refund(), service, **undoing(is_sure=True, reply={"id": "ch/7"}))
    assert result == Done(None)
    assert service.asked("DELETE") == ["/v1/charges/ch%2F7"]


@pytest.mark.parametrize("status", [404, 410])
async def test_what_is_gone_needs_no_undo_where_it_was_known_to_be_there(status: int) -> None:
    known = undoing(is_sure=True, reply={"id": "1"})
    service = answering(says(status), method="DELETE")
    assert await attempt(refund(), service, **known) == Done(None)


async def test_what_is_said_to_be_gone_and_is_still_found_is_not_undone() -> None:
    service = answering(says(404), method="DELETE")
    service.charges["a-1"] = {"id": "1"}
    known = undoing(is_sure=True, reply={"id": "1"})
    with pytest.raises(InDoubt, match="still finds it"):
        await attempt(refund(probe=PROBE), service, **known)


async def test_what_is_in_doubt_is_undone_only_by_what_a_probe_finds() -> None:
    unsure = undoing(is_sure=False, until=NOW)
    without = await attempt(refund(), PlainService(), **unsure)
    assert isinstance(without, Unknowable)
    assert "has no probe" in without.reason
    service = PlainService(charges={"a-1": {"id": "ch_3"}})
    assert await attempt(refund(probe=PROBE), service, **unsure) == Done(None)
    assert service.asked("DELETE") == ["/v1/charges/ch_3"]


async def test_what_a_probe_does_not_find_may_still_come() -> None:
    service, call = PlainService(), refund(probe=PROBE)
    unsure = undoing(is_sure=False, until=NOW)
    early = await attempt(call, service, **unsure)
    assert isinstance(early, Working)
    assert early.retry_after == pytest.approx(70.0)
    late = await attempt(call, service, **unsure, began=NOW + 70 * SECONDS)
    assert late == Done(None)
    assert service.asked("DELETE") == []


async def test_what_is_still_worked_on_is_not_undone_yet() -> None:
    service = answering(says(202, retry_after="2"), method="GET")
    unsure = undoing(is_sure=False, until=NOW, polls="/charges/by-key/a-1")
    result = await attempt(refund(), service, **unsure)
    assert isinstance(result, Working)
    assert result.retry_after == 2.0
    service.charges["a-1"] = {"id": "ch_4"}
    assert await attempt(refund(), service, **unsure) == Done(None)
    assert service.charges == {}


@pytest.mark.parametrize("found", [{"until": NOW}, {"until": NOW, "polls": "/charges/job"}])
async def test_an_undo_in_doubt_is_looked_for_before_it_is_sent_again_however_its_action_was_found(
    found: dict[str, Any],
) -> None:
    told = [says(200, {"id": "ch_1"})] if "polls" in found else []
    service = answering(*told, method="GET")
    service.charges["a-1"] = {"id": "ch_1"}
    call = rest("payments", "POST /charges", keyed=False, probe=PROBE)
    unsure = undoing(is_sure=False, **found)
    result = await attempt(call, service, **unsure, number=2, doubt=NOW)
    assert isinstance(result, Working), "what is there may be undone by the last request"
    service.charges.clear()
    service.troubles["GET"] = told
    old = NOW + 70 * SECONDS
    assert await attempt(call, service, **unsure, number=3, doubt=NOW, began=old) == Done(None)
    assert service.asked("POST") == []


async def test_a_refused_repetition_of_an_undo_says_nothing_while_the_first_one_may_run() -> None:
    call = rest("payments", "POST /refunds", keyed=True)
    known = undoing(is_sure=True, reply={"id": "1"})
    service = answering(says(409), says(409))
    early = await attempt(call, service, **known, number=2, doubt=NOW)
    assert isinstance(early, Working)
    late = await attempt(call, service, **known, number=3, doubt=NOW, began=NOW + 70 * SECONDS)
    assert isinstance(late, Refused)


async def test_an_undo_whose_end_is_told_nowhere_any_more_is_sent_again() -> None:
    found = {"a-1": Found(is_sure=True, reply={"id": "ch_1"})}
    kept = Kept(found, polls="/jobs/1", polls_for="a-1").json()
    service = answering(says(404), method="GET")
    service.charges["a-1"] = {"id": "ch_1"}
    result = await attempt(refund(), service, kept=kept, undoes={"a-1": "ran"}, number=2)
    assert isinstance(result, Working)
    assert result.in_doubt
    again = await attempt(
        refund(), service, kept=result.kept, undoes={"a-1": "ran"}, number=3, doubt=NOW
    )
    assert again == Done(None)
    assert service.charges == {}


@pytest.mark.parametrize("said_of_it", [{"in_doubt": True}, {"answers": {"409": "in-doubt"}}])
async def test_a_refusal_where_the_end_is_told_says_nothing_of_an_earlier_request(
    said_of_it: dict[str, Any],
) -> None:
    service = answering(says(409), says(409), method="GET")
    told = {"is_sure": False, "until": NOW, "polls": "/jobs/1"}
    assert await attempt(refund(), service, **undoing(**told)) == Done(None)
    assert isinstance(await attempt(refund(), service, **undoing(**told, **said_of_it)), Unknowable)


def test_what_an_earlier_version_has_kept_is_read() -> None:
    kept = Kept({"a-1": Found(is_sure=False, until=NOW, polls="/jobs/1")}, doubt=NOW)
    stored = kept.json()
    assert Kept.of(stored) == kept
    for each in (stored, stored["actions"]["a-1"]):
        for name in ("answers", "keyed", "in_doubt"):
            each.pop(name, None)
    assert Kept.of(stored) == kept


async def test_an_undo_that_needs_what_the_service_did_not_say_is_for_a_person() -> None:
    known = undoing(is_sure=True, reply={"number": 7})
    result = await attempt(refund(), PlainService(), **known)
    assert isinstance(result, Unknowable)
    assert "reply.id" in result.reason


async def test_several_actions_are_undone_under_keys_of_their_own() -> None:
    service = PlainService(charges={"a-1": {"id": "1"}, "a-2": {"id": "2"}})
    found = {f"a-{it}": Found(is_sure=True, reply={"id": str(it)}) for it in (1, 2)}
    undoes = {"a-1": "ran", "a-2": "ran"}
    assert await attempt(refund(), service, kept=Kept(found).json(), undoes=undoes) == Done(None)
    assert service.charges == {}
    keys = {it.headers["idempotency-key"] for it in service.requests}
    assert keys == {"c-1/a-1", "c-1/a-2"}


async def test_a_body_has_what_the_service_answered_in_its_places() -> None:
    body = {"charge": Later("reply.id"), "of": [{"key": Later("key")}, 7]}
    call = rest("payments", "POST /charges", body=body, keyed=True)
    service = PlainService()
    known = undoing(is_sure=True, reply={"id": "ch_1"})
    assert await attempt(call, service, **known) == Done(None)
    (request,) = service.requests
    assert json.loads(request.content) == {"charge": "ch_1", "of": [{"key": "a-1"}, 7]}
    state = {"charge": "{reply.id}", "of": {"$reply": "id"}}
    plain = rest("payments", "POST /charges", body=state, keyed=True)
    await attempt(plain, service)
    assert json.loads(service.requests[-1].content) == state, "what comes from the state is data"
