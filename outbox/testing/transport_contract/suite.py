"""The list of the tests, and which of them a transport must pass."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from outbox.testing.transport_contract import accepting, each, replying
from outbox.testing.transport_contract.line import Confirms, Connect, Features

_Check = Callable[[Features, Connect], Awaitable[None]]
_Applies = Callable[[Features], bool]


@dataclass(frozen=True)
class ContractTest:
    """One promise, which a transport with these features keeps or breaks."""

    features: Features
    _check: _Check

    @property
    def name(self) -> str:
        """The promise as a sentence, with underscores."""
        return self._check.__name__

    def __str__(self) -> str:
        return self.name

    async def run(self, connect: Connect) -> None:
        """Try it, on lines of its own. Raises BrokenPromise, an AssertionError, where the promise
        is broken."""
        await self._check(self.features, connect)


def contract_tests(features: Features) -> list[ContractTest]:
    """The tests of a transport that declares these features; a test framework runs each."""
    return [ContractTest(features, check) for check, applies in _CHECKS if applies(features)]


def _always(_: Features) -> bool:
    return True


def _replies(features: Features) -> bool:
    return features.confirms is Confirms.BY_REPLIES


def _accepts(features: Features) -> bool:
    return features.confirms is Confirms.BY_ACCEPTING


_CHECKS: tuple[tuple[_Check, _Applies], ...] = (
    (each.every_message_arrives_whole, _always),
    (
        each.a_command_is_rejected_and_nothing_of_it_leaves,
        lambda features: not features.carries_commands,
    ),
    (each.the_order_is_kept, _always),
    (each.what_is_sent_again_arrives_again, _always),
    (each.an_empty_batch_is_confirmed_without_asking, _always),
    (each.what_cannot_travel_is_unacceptable, _always),
    (each.a_large_message_arrives_whole, _always),
    (each.what_is_too_large_is_unacceptable, lambda features: features.largest is not None),
    (each.silence_ends_with_the_timeout, _always),
    (each.a_destination_that_is_gone_is_unreachable, _always),
    (each.what_did_not_leave_never_arrives, _always),
    (each.a_cancelled_delivery_stops_and_does_not_disturb_the_next, _always),
    (
        each.what_is_said_of_sagas_arrives_with_each_batch,
        lambda features: features.carries_statements,
    ),
    (each.a_closed_transport_delivers_nothing, _always),
    (each.a_slow_handling_end_holds_only_its_own_batch, _always),
    (replying.every_reply_comes_back_whole, _replies),
    (replying.each_message_gets_its_own_reply, _replies),
    (replying.a_handling_end_that_fails_leaves_it_open_what_happened, _replies),
    (replying.a_wrong_number_of_replies_leaves_it_open_what_happened, _replies),
    (replying.a_handling_end_that_hangs_is_given_up, _replies),
    (accepting.what_was_accepted_survives_the_way_dying, _accepts),
    (accepting.what_the_consumer_could_not_take_comes_again_in_its_order, _accepts),
    (accepting.a_definite_answer_takes_the_message_away, _accepts),
    (accepting.what_nobody_asks_for_again_comes_by_itself, _accepts),
)
