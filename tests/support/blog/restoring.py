"""One service of the blog on a server that archives its log, and its restore by the runbook.

The commands are those of docs/operate/backups.md: what that page says is what runs here.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from string import Template
from typing import Any

from orchestrator.cli.processes.child import Spec
from tests.support.blog.blog import articles_schema, comments_schema
from tests.support.blog.deleting import SERVICES
from tests.support.checkout import ROOT
from tests.support.databases.databases import (
    Database,
    PostgresTemplates,
    Schema,
    Templates,
)
from tests.support.databases.point_in_time import ArchivingServer
from tests.support.orchestrator.orchestrating import orchestrator_schema
from tests.support.processes import zygote
from tests.support.processes.running import RunningBlog, running_blog
from tests.support.processes.waiting import until

PAGE = "docs/operate/backups.md"
_BLOCK = re.compile(r"<!-- run: (?P<name>[^>]+) -->\s*```sh\n(?P<script>.*?)```", re.S)
_SCHEMAS: Mapping[str, Schema] = {
    "articles": articles_schema,
    "comments": comments_schema,
    "orchestrator": orchestrator_schema,
}


def scripts() -> Mapping[str, str]:
    """The blocks of the runbook that are run, by their names."""
    text = (ROOT / PAGE).read_text("utf-8")
    return {it["name"]: textwrap.dedent(it["script"]) for it in _BLOCK.finditer(text)}


class Restoration:
    """The blog, and the server of the one service whose database is restored."""

    def __init__(self, blog: RunningBlog, server: ArchivingServer, service: str) -> None:
        self.blog = blog
        self.server = server
        self.service = service
        self._scripts = scripts()

    def back_up(self) -> None:
        """Make the base backup, while the service runs."""
        self.server.shell(self._scripts["base backup"])

    def name_moment(self) -> None:
        """Give this moment the name of the runbook."""
        self.server.shell(self._scripts["restore point"])

    def moment(self) -> str:
        """This moment, by the clock of the server."""
        with self.server.connect() as connection:
            row = connection.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        return str(row[0])

    async def restore(self, moment: str | None = None) -> None:
        """Stop all services, restore the one to the moment, by default the named one, and tell its
        database and, if it is the orchestrator's, the participants'. Nothing runs afterwards."""
        for name in SERVICES:
            await self.blog.children[name].stop()
        self.server.archive_rest(self._scripts["last log"])
        self.server.shell(self._scripts["restore"], MOMENT=moment or "none")
        if moment is None:
            self.server.shell(self._scripts["by name"])
        await asyncio.to_thread(self.server.start_restored)

    async def tell(self) -> None:
        """Say to the databases that one was restored, the orchestrator's first."""
        if self.service == "orchestrator":
            await self._until_told("tell orchestrator", "orchestrator")
        participants = ["articles", "comments"]
        for name in participants if self.service == "orchestrator" else [self.service]:
            await self._until_told("tell participant", name)

    async def audit(self) -> dict[str, Any]:
        """What the audit of the runbook finds."""
        return await self._document("audit")

    async def look(self) -> dict[str, Any]:
        """What it finds before the services start."""
        return await self._document("look")

    async def repair(self) -> dict[str, Any]:
        """What it finds after its repairs."""
        return await self._document("repair")

    async def _document(self, name: str) -> dict[str, Any]:
        code, told = await self._sagabox(self._scripts[name])
        assert code in (0, 1, 4), told
        document: dict[str, Any] = json.loads(told)
        return document

    async def _until_told(self, block: str, service: str) -> None:
        """As soon as the leases have ended that were young in the backup."""
        said = ""

        async def told() -> bool:
            nonlocal said
            code, said = await self._sagabox(self._scripts[block], SERVICE=service)
            assert code == 0 or "runs, or ran until a moment ago" in said, said
            return code == 0

        try:
            await until(told, 90, f"{service} is told that it was restored")
        except AssertionError as error:
            error.add_note(said)
            raise

    async def _sagabox(self, script: str, **variables: str) -> tuple[int, str]:
        """Type the command of a block that has one, `sagabox ...`; its exit code, and what it
        printed."""
        name, *arguments = shlex.split(Template(script).substitute(variables))
        assert name == "sagabox", script
        assert len(script.splitlines()) == 1, script
        with tempfile.TemporaryDirectory() as folder:
            spec = Spec(
                name="sagabox",
                command=(sys.executable, "-P", "-m", "orchestrator.cli", *arguments),
                environment={
                    **os.environ,
                    **{
                        f"SAGABOX_DATABASE_URL_{name.upper()}": it.url
                        for name, it in self.blog.databases.items()
                    },
                    "SAGABOX_URL_ORCHESTRATOR": self.blog.url("orchestrator"),
                },
                url="",
                log=Path(folder) / "sagabox.log",
            )
            child = await zygote.start(spec)
            try:
                code = await asyncio.wait_for(child.wait(), 180)
            finally:
                await child.kill()
            return code, spec.log.read_text("utf-8")


@asynccontextmanager
async def restoration(service: str, shared: Templates, folder: Path) -> AsyncIterator[Restoration]:
    """The blog with the database of that service on a server of its own; nothing runs yet."""
    server = await asyncio.to_thread(ArchivingServer)
    own = PostgresTemplates(server)
    made: list[Database] = []

    def make(schema: Schema) -> Database:
        if schema is _SCHEMAS[service]:
            return own.fresh(schema)
        made.append(shared.fresh(schema))
        return made[-1]

    try:
        async with running_blog(make, folder) as blog:
            yield Restoration(blog, server, service)
    finally:
        server.close()
        for database in made:
            shared.drop(database)
