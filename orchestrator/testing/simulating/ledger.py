"""The ledger of a history's effects, and the promises about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.definition.registry import Registry
from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import Kind
from orchestrator.machine.instance import Instance, Status, StepStatus
from orchestrator.testing.exploring.model.effects import IN_FORCE, RIGHT, TAKEN_BACK, lettered
from orchestrator.testing.virtual.broken import Broken
from orchestrator.testing.virtual.service import Effect
from orchestrator.testing.virtual.storage import Storage


class Ledger:
    """The ledger of effects: for each step of a run what took effect, in letters. `broken` is the
    first promise that did not hold."""

    def __init__(self, storage: Storage, registry: Registry, trace: Callable[..., None]) -> None:
        self.broken: Broken | None = None
        self._storage = storage
        self._registry = registry
        self._trace = trace
        self._letters: dict[tuple[str, str], str] = {}
        self._called: set[tuple[str, str]] = set()
        self._passed: set[tuple[str, str]] = set()
        """The places whose compensation found nothing: a success is late from then on."""

    def breaks(self, promise: str, problem: str) -> None:
        """Note a broken promise. It is not raised, since the code that runs now may take it for a
        participant's trouble."""
        self.broken = self.broken or Broken(promise, problem)

    def overlaps(self, receiver: str, key: str) -> None:
        """Note that a process has two requests with that key in the air."""
        self.breaks("P6", f"{key} is in two requests to {receiver} at once")

    def called(self, saga_id: str, step: str) -> None:
        """Note that the action of a step is a call to the outside: its compensation may find there
        that it had no effect."""
        self._called.add((saga_id, step))

    async def took_effect(self, effect: Effect) -> None:
        """Note an effect, as a participant reports it."""
        place = (effect.saga_id, effect.step)
        letters = self._letters.get(place, "")
        is_outside = effect.letter == "C" and place in self._called
        if is_outside and not letters:
            self._passed.add(place)
        if effect.letter != "B":  # which undoes nothing until its answer
            letters = lettered(letters, "D" if is_outside else effect.letter)
            self._letters[place] = letters
        self._trace("takes effect", effect.saga_id, effect.step, letters)
        runs = [it for it, _ in await self._storage.runs()]
        run = next((it for it in runs if it.id == effect.saga_id), None)
        step = None if run is None else run.steps[effect.step]
        sent = () if step is None else step.undo_ids if effect.is_undo else step.action_ids
        if run is not None and run.begin_at is not None:
            self.breaks("P4", f"step {effect.step!r} took effect, and its run has not begun")
        if run is None or not sent:
            self.breaks("P1", f"step {effect.step!r} took effect, and no commit ever sent it")
            return
        if letters not in RIGHT:
            self.breaks("P2, P3", f"step {effect.step!r} took effect as {letters}")
        saga = self._registry.get(run.saga, run.version)
        self._check_alone(saga, run, runs)
        if effect.letter == "C":
            self._check_undo(saga, effect)

    def _check_alone(
        self, saga: Saga[Any], run: Instance[Any], runs: Sequence[Instance[Any]]
    ) -> None:
        active = [
            it
            for it in runs
            if (it.saga, it.key) == (run.saga, run.key) and not it.ended and it.begin_at is None
        ]
        if saga.one_active and len(active) > 1:
            self.breaks("one active", f"{len(active)} runs of {saga} are active for one key")

    def _check_undo(self, saga: Saga[Any], effect: Effect) -> None:
        in_effect = {
            step.name
            for step in saga.steps
            if self._letters.get((effect.saga_id, step.name)) in IN_FORCE
            and (effect.saga_id, step.name) not in self._passed
        }
        if beyond := sorted(in_effect & saga.point_of_no_return):
            self.breaks("P5", f"{effect.step!r} was undone although {beyond[0]!r} had happened")
        if later := sorted(in_effect & saga.followers[effect.step]):
            self.breaks("order", f"{effect.step!r} was undone before {later[0]!r}")

    def check_end(self, run: Instance[Any]) -> None:
        """Check the run's effects against its status. Raises Broken where they differ."""
        match run.status:
            case Status.TERMINATED:
                self._check_terminated(run)
            case Status.COMPLETED:
                self._check_all(run, ("A",))
            case Status.COMPENSATED:
                self._check_all(run, ("", "AC", "AD", TAKEN_BACK))
                self._check_taken_back(run)
            case status:
                raise Broken("P4", f"a run ended as {status}, and no operator wanted that")

    def _check_all(self, run: Instance[Any], wanted: Sequence[str]) -> None:
        strays = {it.step for it in run.stray_effects}
        for name in run.steps:
            letters = self._letters.get((run.id, name), "")
            is_listed = name in strays and letters in IN_FORCE
            if run.steps[name].status is StepStatus.SKIPPED:
                if letters == "A" and not is_listed:
                    raise Broken("P4", f"step {name!r} was skipped, and took effect")
            elif letters not in wanted and not is_listed:
                raise Broken("P4", f"{run.status}, and step {name!r} had effects {letters!r}")

    def _check_taken_back(self, run: Instance[Any]) -> None:
        for step in self._registry.get(run.saga, run.version).steps:
            is_left = self._letters.get((run.id, step.name)) == TAKEN_BACK
            if is_left and step.kind is Kind.COMPENSATABLE:
                raise Broken("P4", f"step {step.name!r} was refused late, and not undone")

    def _check_terminated(self, run: Instance[Any]) -> None:
        listed = {*run.not_undone, *(it.step for it in run.stray_effects)}
        for name in run.steps:
            is_left = self._letters.get((run.id, name)) in IN_FORCE
            if is_left and name not in listed:
                raise Broken("P4", f"a terminated run does not list {name!r}, which is in effect")
