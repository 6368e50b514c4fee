"""Scenes (a) to (d): one deletion each, that completes, is refused, or loses a process midway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.cli.demo.checks import Check, Outcome, differences, midway
from orchestrator.cli.demo.narrator import Narrator
from orchestrator.cli.demo.trail import Trail
from orchestrator.cli.demo.visitors import Visitors
from orchestrator.cli.demo.waiting import until

if TYPE_CHECKING:
    from orchestrator.cli.demo.stage import Stage


@dataclass(frozen=True)
class Demo:
    """The demo that a scene plays in. `articles` are the ids of the articles written at first."""

    stage: Stage
    visitors: Visitors
    narrator: Narrator
    articles: Sequence[str]


Scene = Callable[[Demo], Awaitable[Outcome]]

# The comments are archived and that is committed, but the orchestrator has no reply yet.
_CRASH = "inbox: after commit, before reply:1"


async def completes(demo: Demo) -> Outcome:
    """Scene (a): the first article's deletion completes without trouble."""
    title, article = "(a) a deletion that completes", demo.articles[0]
    demo.narrator.scene(title)
    comments = len(await demo.visitors.comments(article))
    began = demo.narrator.seconds
    trail = await _asked(demo, article, f"with {comments} comments")
    status = await trail.until_ended()
    return concluded(
        demo,
        Outcome(
            title,
            status,
            demo.narrator.seconds - began,
            "article and comments asked for",
            [ended(status, "COMPLETED"), *await gone(demo, article)],
        ),
    )


async def refused(demo: Demo) -> Outcome:
    """Scene (b): the second article is on legal hold, and its deletion is undone."""
    title, article = "(b) one that a legal hold refuses at the pivot", demo.articles[1]
    demo.narrator.scene(title)
    await demo.visitors.hold(article, "a lawsuit")
    comments = await demo.visitors.comments(article)
    before = await demo.visitors.article(article)
    began = demo.narrator.seconds
    trail = await _asked(demo, article, f"on legal hold, with {len(comments)} comments")
    status = await trail.until_ended()
    await until_published(demo, article)
    seconds = demo.narrator.seconds - began
    found = differences(comments, await demo.visitors.comments(article))
    checks = [
        ended(status, "COMPENSATED"),
        Check(f"all {len(comments)} comments are back, id by id and word by word", [], found),
        Check("the article is as before", before, await demo.visitors.article(article)),
        Check("it takes comments again", 201, (await demo.visitors.write(article, "Still"))[0]),
    ]
    how = f"{len(comments)} comments compared, id by id"
    return concluded(demo, Outcome(title, status, seconds, how, checks))


async def without_comments(demo: Demo) -> Outcome:
    """Scene (c): comments dies after it did the third deletion's work and before it replied."""
    title, article = "(c) one during which comments is killed", demo.articles[2]
    demo.narrator.scene(title)
    # Only the deletion may bring comments to its crash point.
    await demo.stage.until_quiet()
    demo.narrator.say(
        "comments is started anew, armed to die by SIGKILL at its worst moment: after the commit"
        " of what it is asked, before its answer"
    )
    await demo.stage.child("comments").stop()
    await demo.stage.start("comments", crash=_CRASH)
    began = demo.narrator.seconds
    trail = await _asked(demo, article, "and its comments")
    ending = await demo.stage.until_dead("comments")
    killed_at = midway(await trail.until(lambda _: True, "the orchestrator tells of the saga"))
    demo.narrator.say(
        f"comments (pid {demo.stage.child('comments').pid}) was killed: {ending}; the thread is"
        " closed, and the orchestrator does not know"
    )
    child = await demo.stage.start("comments")
    demo.narrator.say(
        f"comments is back (pid {child.pid}); the same command comes again, under the same id, and"
        " the inbox gives the stored answer"
    )
    killed = [Check("it was SIGKILL", "SIGKILL", ending), killed_at]
    return await _completed(demo, title, article, trail, began, killed)


async def without_orchestrator(demo: Demo) -> Outcome:
    """Scene (d): the orchestrator dies while it awaits a reply, which is then lost."""
    title, article = "(d) one during which the orchestrator is killed", demo.articles[1]
    demo.narrator.scene(title)
    await demo.visitors.release(article)
    demo.narrator.say(
        "the hold is lifted; comments is frozen for a moment, to catch the run in its middle"
    )
    began = demo.narrator.seconds
    victim = demo.stage.child("orchestrator")
    with demo.stage.frozen("comments"):
        trail = await _asked(demo, article, "that was refused before")
        seen = await trail.until(lambda saga: midway(saga).held, "the saga waits for comments")
        await victim.kill()
    demo.narrator.say(
        f"the orchestrator (pid {victim.pid}) was killed: {victim.ending}; comments goes on, and"
        " its answer reaches no process"
    )
    child = await demo.stage.start("orchestrator")
    demo.narrator.say(
        f"the orchestrator is back (pid {child.pid}); it finds the run in its database, and sends"
        " what was not answered once more"
    )
    killed = [Check("it was SIGKILL", "SIGKILL", victim.ending), midway(seen)]
    return await _completed(demo, title, article, trail, began, killed)


async def _completed(
    demo: Demo, title: str, article: str, trail: Trail, began: float, killed: Sequence[Check]
) -> Outcome:
    """The end of a deletion during which a service was killed, as `killed` says."""
    status = await trail.until_ended()
    seconds = demo.narrator.seconds - began
    checks = [*killed, ended(status, "COMPLETED"), *await gone(demo, article)]
    how = "the run seen midway; all asked for at the end"
    return concluded(demo, Outcome(title, status, seconds, how, checks))


async def gone(demo: Demo, article: str) -> Sequence[Check]:
    """The check that neither the article nor a comment of it is there, and none can be written."""
    shown = [it["id"] for it in await demo.visitors.comments(article)]
    return [
        Check("the article is gone", 410, (await demo.visitors.article(article))[0]),
        Check("and so are all its comments", [], shown),
        Check("a new one is refused", 410, (await demo.visitors.write(article, "Late"))[0]),
    ]


async def until_published(demo: Demo, article: str) -> None:
    """Wait until the article is published again: its service learns of the saga's end by a later
    message."""

    async def published() -> bool:
        status, shown = await demo.visitors.article(article)
        return status == 200 and shown["status"] == "published"

    await until(published, "the article is published again")


def ended(status: str, expected: str) -> Check:
    """How a run ended."""
    return Check(f"the saga ended {expected}", expected, status)


def concluded(demo: Demo, outcome: Outcome) -> Outcome:
    """Print the checks, and return the outcome."""
    for check in outcome.checks:
        demo.narrator.check(check)
    return outcome


async def _asked(demo: Demo, article: str, what: str) -> Trail:
    demo.narrator.say(
        f"DELETE /articles/{article}, {what}: answered 202 at once, with the saga's id"
    )
    saga = await demo.visitors.delete(article)
    return Trail(demo.visitors, demo.narrator, saga)
