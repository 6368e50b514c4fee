"""The trail of one run: it follows the history, and says what each line means in this saga."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from orchestrator.cli.demo.narrator import Narrator
from orchestrator.cli.demo.visitors import Visitors
from orchestrator.cli.demo.waiting import until
from orchestrator.machine.transition import Happening

_MEANINGS = {
    "articles.hide-article.v1": "articles closes the article to changes, for this saga alone",
    "comments.close-thread.v1": "comments archives all under the saga's tag, and takes no more",
    "articles.delete-article.v1": "the pivot: articles deletes it or says no; done, no way back",
    "comments.purge-thread.v1": "comments removes for good what it archived",
    "comments.reopen-thread.v1": "comments brings back exactly what bears the saga's tag",
    "articles.unhide-article.v1": "articles opens the article again",
}
_COMPENSATIONS = {"comments.reopen-thread.v1", "articles.unhide-article.v1"}
_LONGEST = len("delete article")


class Trail:
    """The run `saga`; each line of its history is told once, across deaths of the orchestrator."""

    def __init__(self, visitors: Visitors, narrator: Narrator, saga: str) -> None:
        self._visitors = visitors
        self._narrator = narrator
        self._saga = saga
        self._last = 0
        self._commands: dict[str, str] = {}

    async def until(
        self, predicate: Callable[[Mapping[str, Any]], bool], what: str
    ) -> Mapping[str, Any]:
        """The run as it is when the predicate is true of it. Raises CommandError."""
        found: Mapping[str, Any] = {}

        async def is_true() -> bool:
            nonlocal found
            found = await self._visitors.saga(self._saga) or {}
            for line in self._meant(await self._visitors.history(self._saga, after=self._last)):
                self._narrator.say(line)
            return bool(found) and predicate(found)

        await until(is_true, what)
        return found

    async def until_ended(self) -> str:
        """The status with which the run ended. Raises CommandError."""
        ended = await self.until(lambda saga: saga["ended_at"] is not None, "the saga has ended")
        status: str = ended["status"]
        return status

    def _meant(self, entries: Iterable[Mapping[str, Any]]) -> Iterable[str]:
        for entry in entries:
            self._last = entry["number"]
            if line := self._line(entry):
                yield line

    def _line(self, entry: Mapping[str, Any]) -> str | None:
        step, detail = entry["step"], entry["detail"]
        match entry["happening"]:
            case Happening.STARTED:
                return f"  {self._saga} has begun: {detail}"
            case Happening.SENT:
                self._commands[entry["command_id"]] = detail
                self._narrator.now(f"{step}: {_MEANINGS.get(detail, detail)}")
                return None
            case Happening.ANSWERED:
                sent = self._commands.get(entry["command_id"], "")
                if detail != "done":
                    return f"  {step:{_LONGEST}}  {detail}"
                word = "undone" if sent in _COMPENSATIONS else "done  "
                return f"  {step:{_LONGEST}}  {word}  {_MEANINGS.get(sent, sent)}"
            case Happening.TURNED_BACK:
                return "  from here on backward: what was done is undone, the last step first"
            case Happening.ENDED:
                return f"  ended {detail}"
            case other:
                return f"  {other}{f' [{step}]' if step else ''}: {detail}"
