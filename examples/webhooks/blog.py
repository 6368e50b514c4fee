"""A blog that tells a subscriber outside what was published and deleted.

export CRM_URL=http://127.0.0.1:8099/hooks/blog CRM_IS_HERE=1 CRM_SECRET=whsec_...
sagabox run webhooks.blog
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import create_async_engine

import outbox

CRM_URL = os.environ.get("CRM_URL", "https://crm.example/hooks/blog")
CRM_IS_HERE = bool(os.environ.get("CRM_IS_HERE"))

engine = create_async_engine(
    os.environ.get("SAGABOX_DATABASE_URL_BLOG", "sqlite+aiosqlite:///blog.sqlite")
)


@dataclass(frozen=True)
class PostPublished(outbox.Event, type="blog.post-published.v1", key="post"):
    post: str
    title: str


@dataclass(frozen=True)
class PostDeleted(outbox.Event, type="blog.post-deleted.v1", key="post"):
    post: str


crm = outbox.Webhook(CRM_URL, secret="env:CRM_SECRET", private=CRM_IS_HERE)

service = outbox.Service(
    "blog",
    engine,
    peers={"mail": "http://127.0.0.1:8098", "crm": crm},
    routes={PostPublished: ["mail", "crm"], PostDeleted: ["crm"]},
)


async def publish(post: str, title: str) -> None:
    async with service.sessions.begin() as session:
        outbox.add(session, PostPublished(post, title))


async def delete(post: str) -> None:
    async with service.sessions.begin() as session:
        outbox.add(session, PostDeleted(post))
