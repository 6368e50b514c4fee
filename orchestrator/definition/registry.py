"""The sagas and participants that an orchestrator knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orchestrator.definition.saga import Saga
from orchestrator.errors import InvalidSaga, UnknownDefinition
from outbox.errors import Unrouted


class Registry:
    """Definitions by name and version, and the names of the services that answer their commands.

    Raises InvalidSaga where two definitions share name and version, or one sends commands to a
    service that is not among the participants.
    """

    def __init__(self, sagas: Iterable[Saga[Any]], participants: Mapping[str, str]) -> None:
        self.participants = dict(participants)
        self._sagas: dict[tuple[str, int], Saga[Any]] = {}
        self._latest: dict[str, Saga[Any]] = {}
        for saga in sagas:
            self._add(saga)

    def __iter__(self) -> Iterator[Saga[Any]]:
        return iter(sorted(self._sagas.values(), key=lambda it: (it.name, it.version)))

    def find(self, name: str, version: int) -> Saga[Any] | None:
        """The definition of that name and version, if it is here."""
        return self._sagas.get((name, version))

    def get(self, name: str, version: int | None = None) -> Saga[Any]:
        """The definition in that version, or in the latest. Raises UnknownDefinition."""
        found = self._latest.get(name) if version is None else self.find(name, version)
        if found is None:
            wanted = name if version is None else f"{name} v{version}"
            known = ", ".join(map(str, self)) or "none"
            raise UnknownDefinition(
                f"there is no saga {wanted!r:.100}; registered are: {known}",
                next_step="name one of these, or register it by SAGABOX_SAGAS",
            )
        return found

    def _add(self, saga: Saga[Any]) -> None:
        if self._sagas.setdefault((saga.name, saga.version), saga) is not saga:
            raise InvalidSaga(
                f"there are two definitions of {saga}",
                next_step="give one of them another name or version",
            )
        unknown = sorted(saga.participants - set(self.participants))
        if unknown:
            no_peer = Unrouted.no_peer(unknown[0], "orchestrator", self.participants)
            raise InvalidSaga(
                f"{saga} sends commands to {', '.join(unknown)}, and {no_peer.problem}",
                next_step=no_peer.next_step,
            )
        latest = self._latest.get(saga.name)
        if latest is None or latest.version < saga.version:
            self._latest[saga.name] = saga
