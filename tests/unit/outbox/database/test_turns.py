from __future__ import annotations

import gc
import threading
from concurrent.futures import CancelledError

import pytest

from outbox.database.write_queue import TurnsByName, WriteQueue


def test_the_first_to_ask_has_the_turn_at_once() -> None:
    assert WriteQueue().ask("a").done()


def test_turns_go_round_in_the_order_of_asking() -> None:
    turns = WriteQueue()
    tickets = {name: turns.ask(name) for name in "abcd"}
    order: list[str] = []
    for name in "abcd":
        assert [each for each, ticket in tickets.items() if ticket.done()] == [*order, name]
        order.append(name)
        turns.pass_on(name)
    assert turns.ask("e").done()


def test_only_the_holder_can_pass_its_turn_on_and_only_once() -> None:
    turns = WriteQueue()
    turns.ask("a")
    second = turns.ask("b")
    turns.pass_on("c")
    assert not second.done()
    turns.pass_on("a")
    assert second.done()
    third = turns.ask("c")
    turns.pass_on("a")
    assert not third.done()


def test_who_stops_waiting_is_passed_over() -> None:
    turns = WriteQueue()
    turns.ask("a")
    second, third = turns.ask("b"), turns.ask("c")
    turns.withdraw("b", second)
    turns.pass_on("a")
    assert third.done()
    with pytest.raises(CancelledError):
        second.result(0)


def test_who_stops_waiting_too_late_passes_its_turn_on() -> None:
    turns = WriteQueue()
    turns.ask("a")
    second, third = turns.ask("b"), turns.ask("c")
    turns.pass_on("a")
    turns.withdraw("b", second)
    assert third.done()


def test_a_call_in_the_midst_of_another_call_blocks_nothing() -> None:
    """As when the garbage collector finds a dropped connection at just that moment."""
    turns = WriteQueue()
    turns.ask("a")
    second, third = turns.ask("b"), turns.ask("c")
    fourth = []

    def interrupt(_: object) -> None:
        turns.pass_on("b")
        fourth.append(turns.ask("d"))

    second.add_done_callback(interrupt)
    turns.pass_on("a")
    assert third.done()
    assert not fourth[0].done()
    turns.pass_on("c")
    assert fourth[0].done()


def test_one_holds_the_turn_at_a_time_among_many_threads() -> None:
    turns = WriteQueue()
    inside: list[int] = []
    worst = 0

    def work(number: int) -> None:
        nonlocal worst
        for round_ in range(200):
            holder = (number, round_)
            turns.ask(holder).result(10)
            inside.append(number)
            worst = max(worst, len(inside))
            inside.pop()
            turns.pass_on(holder)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert worst == 1
    assert turns.ask("last").done()


def test_a_name_has_one_queue_as_long_as_an_engine_uses_it() -> None:
    by_name = TurnsByName()
    turns = by_name["a"]
    assert by_name["a"] is turns
    assert by_name["b"] is not turns
    turns.ask("holder")
    del turns
    gc.collect()
    assert by_name["a"].ask("another").done()
