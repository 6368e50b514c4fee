"""Scene (e): many deletions at once, some of them refused, while comments keep coming in."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from orchestrator.cli.demo.checks import Check, Comment, Outcome, differences
from orchestrator.cli.demo.deletions import Demo, concluded, until_published
from orchestrator.cli.demo.visitors import Visitors
from orchestrator.cli.demo.waiting import until

ARTICLES = 50
HELD = 5
"""How many of them are on legal hold."""

_WRITERS = 4
_PAUSE = 0.02  # seconds between two comments of one writer
_BEFORE = 2 * ARTICLES  # comments that are there before the first deletion
_REFUSALS = {404, 409, 410}  # 404 where the article came back between the attempt and the look


async def crowded(demo: Demo) -> Outcome:
    """Scene (e): 50 deletions, while writers comment on any article."""
    title = f"(e) {ARTICLES} deletions while comments keep coming in"
    demo.narrator.scene(title)
    numbers = range(1, ARTICLES + 1)
    articles = await demo.visitors.publish_all([f"One of many, {it}" for it in numbers])
    held = articles[:: ARTICLES // HELD]
    await asyncio.gather(*(demo.visitors.hold(it, "a lawsuit") for it in held))
    demo.narrator.say(
        f"{ARTICLES} articles, {len(held)} of them on legal hold, and {_WRITERS} writers who do not"
        " stop until all is over"
    )
    writers = _Writers(demo.visitors, articles)
    writing = [asyncio.create_task(writers.write(it)) for it in range(_WRITERS)]
    try:
        await until(writers.have_begun, f"{_BEFORE} comments are written")
        began = demo.narrator.seconds
        written = writers.answers.total()
        demo.narrator.say(f"all {ARTICLES} are to be deleted, now")
        sagas = await asyncio.gather(*(demo.visitors.delete(it) for it in articles))
        endings = await _until_all_ended(demo, sagas, writers)
        seconds = demo.narrator.seconds - began
        meanwhile = writers.answers.total() - written
    finally:
        writers.stop.set()
        await asyncio.gather(*writing)
    for article in held:
        await until_published(demo, article)
    answered = writers.answers.keys()
    shares = (f"{count} {status}" for status, count in sorted(endings.items()))
    demo.narrator.say(
        f"ended: {', '.join(shares)}; {len(writers.accepted)} comments were accepted, and"
        f" {writers.answers.total() - len(writers.accepted)} refused"
    )
    checks = [
        Check(
            f"{ARTICLES - HELD} sagas ended COMPLETED, {HELD} COMPENSATED",
            {"COMPLETED": ARTICLES - HELD, "COMPENSATED": HELD},
            dict(endings),
        ),
        *await _as_promised(demo, articles, held, writers.accepted),
        Check("comments came in meanwhile", True, meanwhile > 0),
        Check("and were refused where it was too late", True, bool(_REFUSALS & answered)),
        Check(
            "no answer to a comment but yes or a clear no",
            [],
            sorted(answered - {201, *_REFUSALS}),
        ),
    ]
    how = f"{len(writers.accepted)} accepted comments looked for, one by one"
    return concluded(demo, Outcome(title, f"{endings.total()} ended", seconds, how, checks))


@dataclass
class _Writers:
    """Writers of comments. `answers` counts the answers by their status; `accepted` are the
    comments behind the 201s."""

    visitors: Visitors
    articles: Sequence[str]
    answers: Counter[int] = field(default_factory=Counter)
    accepted: list[Comment] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def write(self, first: int) -> None:
        """Comment on one article after the other, until `stop`."""
        number = first
        while not self.stop.is_set():
            article = self.articles[number % len(self.articles)]
            status, comment = await self.visitors.write(article, f"Comment {number}")
            self.answers[status] += 1
            if status == 201:
                self.accepted.append(comment)
            number += _WRITERS
            await asyncio.sleep(_PAUSE)

    async def have_begun(self) -> bool:
        """Whether some comments are there."""
        return len(self.accepted) >= _BEFORE


async def _until_all_ended(demo: Demo, sagas: Sequence[str], writers: _Writers) -> Counter[str]:
    """Wait until all runs ended; the count of each final status."""
    endings: dict[str, str] = {}

    async def look(saga: str) -> None:
        found = await demo.visitors.saga(saga)
        if found is not None and found["ended_at"] is not None:
            endings[saga] = found["status"]

    async def all_ended() -> bool:
        await asyncio.gather(*(look(it) for it in sagas if it not in endings))
        more = f" deletions have ended, {len(writers.accepted)} comments accepted"
        demo.narrator.count(len(endings), len(sagas), more)
        return len(endings) == len(sagas)

    await until(all_ended, f"all {len(sagas)} sagas have ended")
    return Counter(endings.values())


async def _as_promised(
    demo: Demo, articles: Sequence[str], held: Collection[str], accepted: Sequence[Comment]
) -> Sequence[Check]:
    """The check that nothing is left of the deleted articles, and every accepted comment of the
    held ones."""
    left: list[str] = []
    lost: list[str] = []
    for article in articles:
        shown = await demo.visitors.comments(article)
        status, _ = await demo.visitors.article(article)
        if article in held:
            lost += differences([it for it in accepted if it["article_id"] == article], shown)
            lost += [] if status == 200 else [f"article {article}: {status}"]
        else:
            left += [it["id"] for it in shown]
            left += [] if status == 410 else [f"article {article}: {status}"]
    return [
        Check("nothing is left of what was deleted", [], left),
        Check("of those on hold, every accepted comment is there, and no other", [], lost),
    ]
