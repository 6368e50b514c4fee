"""The registration of one's own address at an agent of Consul, while a service runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from outbox.transports.addresses.address import Address
from outbox.transports.addresses.destination import Destination
from outbox.transports.addresses.from_consul import agent_of, secret_at, silence
from outbox.transports.addresses.watching import Unresolved

AGAIN_SECONDS = 30.0
"""After how many seconds it is registered again, since an agent that began anew forgets."""
FIRST_PAUSE = 1.0
"""Seconds after which a registration that failed is tried again, at first."""
_SECONDS = 5.0
_CHECK_INTERVAL = "5s"
_FORGOTTEN_AFTER = "10m"

log = logging.getLogger("outbox.service")


class Registration:
    """The registration of `own` under the service's name at the agent of `destination`, which asks
    GET /readyz there whether it is healthy."""

    def __init__(self, destination: Destination, own: Address) -> None:
        self._destination = destination
        self._agent = agent_of(destination)
        self._own = own
        self.id = f"{destination.service}-{own.host}-{own.port}"
        """By which the agent knows it: the same address again takes the place of the old one."""

    async def register(self) -> None:
        """Register it, or again. Raises Unresolved."""
        own = self._own
        tag = self._destination.options.get("tag")
        definition = {
            "ID": self.id,
            "Name": self._destination.service,
            "Address": own.host,
            "Port": own.port,
            "Tags": [] if tag is None else [tag],
            "Check": {
                "HTTP": f"{own}/readyz",
                "Interval": _CHECK_INTERVAL,
                "Timeout": "3s",
                # An instance that was killed cannot say that it is gone.
                "DeregisterCriticalServiceAfter": _FORGOTTEN_AFTER,
            },
        }
        await self._put("/v1/agent/service/register?replace-existing-checks=true", definition)

    async def deregister(self) -> None:
        """Take it away again. Raises Unresolved."""
        await self._put(f"/v1/agent/service/deregister/{self.id}", None)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Keep it registered until the block ends. An agent that is away keeps no service from
        running: it is registered as soon as the agent is there."""
        keeping = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            try:
                await self.deregister()
            except Unresolved as error:
                log.warning("%s is not deregistered: %s", self._own, error)

    async def _keep(self) -> None:
        pause, is_told = FIRST_PAUSE, False
        while True:
            try:
                await self.register()
            except Unresolved as error:
                if not is_told:
                    log.warning("%s is not registered: %s", self._own, error)
                is_told = True
                await asyncio.sleep(pause)
                pause = min(AGAIN_SECONDS, pause * 2)
                continue
            pause, is_told = FIRST_PAUSE, False
            await asyncio.sleep(AGAIN_SECONDS)

    async def _put(self, path: str, content: object) -> None:
        source, headers = str(self._destination), {}
        if (token := self._destination.options.get("token")) is not None:
            headers["x-consul-token"] = secret_at(token, source)
        try:
            async with asyncio.timeout(_SECONDS), httpx.AsyncClient(trust_env=False) as client:
                answer = await client.put(
                    self._agent + path, json=content, headers=headers, timeout=_SECONDS
                )
        except (httpx.HTTPError, TimeoutError) as error:
            raise Unresolved(
                f"the agent at {self._agent} gives no answer: {silence(error, _SECONDS)}",
                next_step="see whether it runs, and whether this machine reaches it",
            ) from None
        if answer.status_code != httpx.codes.OK:
            raise Unresolved(
                f"the agent at {self._agent} answers {answer.status_code}: {answer.text[:100]}",
                next_step="see its log, and whether the token may write this service",
            )
