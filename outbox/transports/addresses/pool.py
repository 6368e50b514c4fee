"""The pool of a destination's addresses: which one is asked, and what its answer means.

It knows nothing of HTTP: a transport gives it an `Attempt`, one request to one address.

A request of which nothing was used goes to the next address within the same delivery. One that may
have been taken does not: it may be what killed its receiver, and would go on from one to the next.
The relay sends it again by itself, with care, under the same ids, and then it goes to another
address. So a key also is in one unanswered request at a time, as the relay promises.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from outbox.safe_text import fit
from outbox.transports.addresses.address import Address, Found
from outbox.transports.addresses.overview import Overview, Seen
from outbox.transports.addresses.resolver import Resolver
from outbox.transports.addresses.rotation import Rotation
from outbox.transports.addresses.standing import FIRST_PAUSE, LONGEST_PAUSE, Standing, State
from outbox.transports.base import Answered, Delivery, Unacceptable, Unreachable
from outbox.wire.envelope import Envelope

MOST_ATTEMPTS = 4
"""Addresses that one delivery tries, at most."""
CONNECT_SECONDS = 1.0
"""For how long an address is waited for to take a connection, where another could be asked."""
PROBE_SECONDS = 2.0
"""For how long a probe waits for its answer."""

log = logging.getLogger("outbox.relay")


@dataclass(frozen=True, slots=True)
class Told:
    """The answer of one address. `database` is the id of the database that it works on, None where
    it does not tell.

    `is_busy` tells that it used nothing of the request and is well otherwise, `is_stranger` that it
    used nothing since it works on another database than the one that was meant.
    """

    delivery: Delivery
    database: str | None = None
    is_busy: bool = False
    is_stranger: bool = False


class Attempt(Protocol):
    """One request to one address."""

    async def __call__(
        self,
        envelopes: Sequence[Envelope],
        address: Address,
        database: str | None,
        *,
        within: float,
        connect_within: float,
    ) -> Told:
        """Deliver these, in `within` seconds, `connect_within` of them for the connection; never
        raises for what the network or the other side does.

        Without envelopes it is a probe, which only asks whether a receiver is there. `database` is
        the id of the database that is meant: a receiver on another one is to refuse.
        """


class AddressPool:
    """The addresses of one destination, whose text in the settings is `source`.

    All of them work on one database. The first answers tell which, for as long as the process
    lives; an address that works on another one is a stranger, which gets no message. A pool that
    `follows` has one address that is written down: another database there is the new one.
    """

    def __init__(
        self,
        source: str,
        resolver: Resolver,
        *,
        now: Callable[[], float],
        follows: bool = False,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._source = source
        self._resolver = resolver
        self._now = now
        self._follows = follows
        self._chance = chance
        self._rotation = Rotation()
        self._standings: dict[Address, Standing] = {}
        self._found: Sequence[Found] = ()
        self._database: str | None = None
        self._is_introduced = follows
        self._introducing = asyncio.Lock()
        self._questions = 0
        self._silence: Unreachable | None = None
        self._has_untold = False
        self._disagreement: str | None = None
        self._probe: asyncio.Task[None] | None = None
        self._beginning: asyncio.Task[None] | None = None
        self._ejections = 0
        self._strangers = 0

    async def deliver(
        self, envelopes: Sequence[Envelope], attempt: Attempt, timeout: float
    ) -> Delivery:
        """The delivery to one of the addresses, within `timeout` seconds."""
        ends = asyncio.get_running_loop().time() + timeout
        try:
            async with asyncio.timeout_at(ends):
                self._take(await self._resolver.found())
                if not self._is_introduced:
                    await self._get_introduced(attempt, timeout / 2)
        except TimeoutError:
            return Unreachable(self._nowhere(f"nothing was found within {timeout:g} s"), sent=False)
        if self._disagreement is not None:
            return Unreachable(self._disagreement, sent=False)
        if not self._is_introduced:
            return self._silence or Unreachable(self._nowhere(), sent=False)
        return await self._deliver(envelopes, attempt, ends)

    def begin(self, attempt: Attempt) -> None:
        """Find the addresses, and get the id of their database, before there is a message to send:
        what is wrong is told early, and a stranger that comes later is known."""
        if self._beginning is None and not self._is_introduced:
            self._beginning = asyncio.create_task(self._introduced_in_time(attempt))

    def overview(self) -> Overview:
        """The addresses as they stand now."""
        self._take(self._resolver.known)
        now = self._now()
        return Overview(
            source=self._source,
            database=self._database,
            trouble=self._disagreement or self._resolver.trouble,
            addresses=tuple(_seen(it, self._standing(it.address), now) for it in self._found),
            ejections=self._ejections,
            strangers=self._strangers,
        )

    async def aclose(self) -> None:
        """End what runs. Calling it twice is fine."""
        running = [it for it in (self._probe, self._beginning) if it is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._resolver.aclose()

    async def _deliver(
        self, envelopes: Sequence[Envelope], attempt: Attempt, ends: float
    ) -> Delivery:
        self._probe_one(attempt)
        loop, tried = asyncio.get_running_loop(), set[Address]()
        last: Unreachable | None = None
        while len(tried) < MOST_ATTEMPTS:
            left = ends - loop.time()
            address = self._next(tried)
            if address is None or (last is not None and left < CONNECT_SECONDS / 4):
                break
            tried.add(address)
            connect_within = min(CONNECT_SECONDS, left / 2) if self._has_other(tried) else left
            told = await attempt(
                envelopes,
                address,
                None if self._follows else self._database,
                within=left,
                connect_within=connect_within,
            )
            delivery = self._judged(address, told)
            if not isinstance(delivery, Unreachable) or delivery.sent:
                return delivery
            last = delivery
        return last or Unreachable(self._nowhere(), sent=False)

    def _next(self, tried: Collection[Address]) -> Address | None:
        """The address to ask; where all are bad, the one that was so for longest. A stranger gets
        nothing."""
        left = [it for it in self._found if it.address not in tried]
        usable = [it for it in left if self._standing(it.address).state is State.USABLE]
        if len(usable) == 1:
            return usable[0].address
        if usable:
            return self._rotation.next_of(usable).address
        ejected = [it for it in left if self._standing(it.address).state is State.EJECTED]
        waiting = min(ejected, key=lambda it: self._standing(it.address).until, default=None)
        return None if waiting is None else waiting.address

    def _has_other(self, tried: Collection[Address]) -> bool:
        """Whether another address is left that could be asked."""
        return any(
            it.address not in tried and self._standing(it.address).state is not State.STRANGER
            for it in self._found
        )

    def _judged(self, address: Address, told: Told, *, is_probe: bool = False) -> Delivery:
        """What the answer of that address means. One from another database is none."""
        standing = self._standing(address).asked()
        if (told.is_stranger and not self._follows) or self._is_foreign(told):
            sent = not told.is_stranger and not is_probe
            reason = self._meets_stranger(address, standing, told)
            return Unreachable(reason, sent=sent)
        if told.database is not None and told.database != self._database:
            self._settle_on(address, told.database)
        # One that answers and does not tell is of an older version.
        self._has_untold |= told.database is None and isinstance(told.delivery, Answered)
        delivery = self._believed(address, told)
        if not isinstance(delivery, Unreachable):
            self._note(address, standing.probed() if is_probe else standing.answered())
        elif told.is_busy:
            self._note(address, standing)
        else:
            self._eject(address, standing, delivery.reason)
        return delivery

    def _note(self, address: Address, standing: Standing) -> None:
        if any(it.address == address for it in self._found):
            self._standings[address] = standing

    def _eject(self, address: Address, standing: Standing, reason: str) -> None:
        if standing.state is State.USABLE and not self._follows:
            self._ejections += 1
            log.warning("%s is left out of %s: %s", address, self._source, reason)
        state = State.STRANGER if standing.state is State.STRANGER else State.EJECTED
        self._note(address, standing.failed(self._now(), fit(reason), self._chance(), state))
        self._resolver.doubt()

    def _believed(self, address: Address, told: Told) -> Delivery:
        """The answer; a refusal condemns messages only where it is known who refuses."""
        delivery = told.delivery
        if not isinstance(delivery, Unacceptable) or self._follows or told.database is not None:
            return delivery
        if self._has_untold and self._database is None:
            return delivery
        reason = f"{address} refuses, and does not tell its database: {delivery.reason}"
        return Unreachable(fit(reason), sent=False)

    def _is_foreign(self, told: Told) -> bool:
        known = self._database
        return None not in (told.database, known) and told.database != known and not self._follows

    def _meets_stranger(self, address: Address, standing: Standing, told: Told) -> str:
        reason = fit(
            f"{address} works on the database {told.database or 'of another service'}, and the "
            f"other addresses of {self._source} on {self._database}: take it out of that name; or, "
            "if the database was replaced, restart the services that send there"
        )
        if standing.state is not State.STRANGER:
            self._strangers += 1
            log.error("a stranger gets no message: %s", reason)
        self._note(address, standing.failed(self._now(), reason, self._chance(), State.STRANGER))
        self._resolver.doubt()
        return reason

    def _settle_on(self, address: Address, database: str) -> None:
        if self._database is not None:
            log.error(
                "%s works on the database %s since now, and on %s before: what it took there, it "
                "takes anew",
                address,
                database,
                self._database,
            )
        self._database = database

    async def _get_introduced(self, attempt: Attempt, within: float) -> None:
        """Ask, unless others did so meanwhile: their question is that of all who waited for it."""
        questions = self._questions
        async with self._introducing:
            if not self._is_introduced and questions == self._questions:
                await self._ask_all(attempt, within)
                self._questions += 1

    async def _ask_all(self, attempt: Attempt, within: float) -> None:
        """Ask the foremost addresses for the ids of their databases, before any message leaves.
        Most of them decide; where as many tell one as another, or none answers, nothing is sent."""
        foremost = sorted(self._found, key=self._turn_to_tell)[:MOST_ATTEMPTS]
        self._silence = None
        answers = await asyncio.gather(
            *(
                attempt((), it.address, None, within=within, connect_within=within / 2)
                for it in foremost
            )
        )
        ids = Counter(it.database for it in answers if it.database is not None).most_common(2)
        if len(ids) == 2 and ids[0][1] == ids[1][1]:
            self._disagree(foremost, answers)
            return
        self._disagreement = None
        if ids:
            self._database, self._is_introduced = ids[0][0], True
        for found, told in zip(foremost, answers, strict=True):
            delivery = self._judged(found.address, told, is_probe=True)
            # A receiver that tells no database may take a request without messages for a wrong one.
            self._is_introduced |= isinstance(told.delivery, Answered | Unacceptable)
            if self._silence is None and isinstance(delivery, Unreachable):
                reason = fit(f"{self._source} has no address that answers: {delivery.reason}")
                self._silence = replace(delivery, reason=reason, sent=False)

    def _turn_to_tell(self, found: Found) -> tuple[bool, float, int]:
        """Those that did not answer come last, so that they hide no other."""
        it = self._standing(found.address)
        return it.state is not State.USABLE, it.until, found.priority

    def _disagree(self, among: Sequence[Found], answers: Sequence[Told]) -> None:
        pairs = zip(among, answers, strict=True)
        told = ", ".join(f"{it.address} on {of.database}" for it, of in pairs if of.database)
        reason = fit(
            f"the addresses of {self._source} work on different databases ({told}), and which is "
            "right is not known: take those of the others out of that name"
        )
        if self._disagreement is None:
            log.error("nothing is sent: %s", reason)
        self._disagreement = reason

    async def _introduced_in_time(self, attempt: Attempt) -> None:
        pause = FIRST_PAUSE
        while not self._is_introduced:
            self._take(await self._resolver.found())
            await self._get_introduced(attempt, PROBE_SECONDS)
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    def _probe_one(self, attempt: Attempt) -> None:
        """Probe the address that is due for longest, beside the deliveries."""
        if self._follows or (self._probe is not None and not self._probe.done()):
            return
        now = self._now()
        due = [it for it, standing in self._standings.items() if standing.is_due(now)]
        if not due:
            return
        address = min(due, key=lambda it: self._standing(it).until)
        self._probe = asyncio.create_task(self._probed(address, attempt))

    async def _probed(self, address: Address, attempt: Attempt) -> None:
        told = await attempt(
            (),
            address,
            None if self._follows else self._database,
            within=PROBE_SECONDS,
            connect_within=CONNECT_SECONDS,
        )
        if address in self._standings:
            self._judged(address, told, is_probe=True)
            if self._standing(address).state is State.USABLE:
                log.info("%s is used again for %s", address, self._source)

    def _take(self, found: Sequence[Found]) -> None:
        if found is self._found:
            return
        self._found = found
        now_there = {it.address for it in found}
        self._standings = {it: of for it, of in self._standings.items() if it in now_there}

    def _standing(self, address: Address) -> Standing:
        return self._standings.get(address) or _FRESH

    def _nowhere(self, otherwise: str = "no address is known") -> str:
        strangers = [it for it in self._standings.values() if it.state is State.STRANGER]
        if strangers and len(strangers) == len(self._found):
            return strangers[0].reason
        why = self._resolver.trouble or otherwise
        return fit(f"{self._source} has no address to send to: {why}")


def _seen(found: Found, it: Standing, now: float) -> Seen:
    retry_in = 0.0 if it.state is State.USABLE else max(0.0, it.until - now)
    return Seen(
        address=str(found.address),
        state=it.state,
        priority=found.priority,
        weight=found.weight,
        requests=it.requests,
        failures=it.failures,
        reason=it.reason,
        retry_in=round(retry_in, 3),
    )


_FRESH = Standing()
