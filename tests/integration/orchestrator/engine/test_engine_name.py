"""The name of an orchestrator: what it sends comes from it, and answers go to it."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.engine.settings import EngineSettings
from orchestrator.machine.instance import Status
from orchestrator.sagas.delete_article import delete_article
from tests.integration.orchestrator.engine.test_engine_messages import ARTICLE, an_id, ask, news
from tests.support.orchestrator.engines import QUICK, Scripted, running
from tests.support.processes.waiting import until

pytestmark = pytest.mark.databases("sqlite")


async def test_all_that_an_orchestrator_sends_comes_from_its_name(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    saga_id = an_id(1)
    settings = EngineSettings(name="back-office", stuck_to=("comments",), relay=QUICK)
    both = {"articles": articles, "comments": comments}
    async with running(engine, [delete_article], both, settings=settings) as node:
        await ask(node, saga_id, article_id=ARTICLE)
        await node.until_status(saga_id, Status.COMPLETED)
        await until(lambda: news(articles), what="the news of the end")
    seen = [*articles.seen, *comments.seen]
    assert "orchestrator.saga-ended.v1" in {it.type for it in seen}
    assert {it.source for it in seen} == {"back-office"}
    assert {it.reply_to for it in seen} == {"back-office", None}
