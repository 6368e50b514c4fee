"""The transport to one subscriber: signed requests to its URL, in order per key.

transport = WebhookTransport(hook, source="articles", clock=clock)
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence

from outbox.clock import Clock
from outbox.errors import InvalidKeyring, InvalidWebhook, MalformedEnvelope
from outbox.replies import Outcome, Reply
from outbox.safe_text import fit
from outbox.transports.base import DEFAULT_TIMEOUT, Answered, Delivery, Unacceptable, Unreachable
from outbox.transports.http.signing import Keyring
from outbox.transports.http.signing import sign as sign_as_ours
from outbox.transports.webhooks.answers import Declined, Status, Taken, meaning
from outbox.transports.webhooks.delivery import Carriage, Send
from outbox.transports.webhooks.posting import SubscriberPost
from outbox.transports.webhooks.references import Reference
from outbox.transports.webhooks.requests import check, is_command, request_of
from outbox.transports.webhooks.signing import secrets_in, sign
from outbox.transports.webhooks.webhook import Mode, Webhook
from outbox.wire import attributes
from outbox.wire.envelope import Envelope

_MARGIN = 0.9
"""The part of its timeout that a delivery takes at most, so that what it knows is not lost."""
_BEGINS = 0.5
"""The part of that time in which requests begin; so each has the rest of it at least."""
_REMEMBERED = 1000
"""How many keys with smaller batches are remembered: far more than one round leaves undivided."""
_NO_EVENT = Reply(
    Outcome.REJECTED,
    code="no-event",
    reason="it is a command, and a webhook takes events: its receiver would not answer it",
)


class WebhookTransport:
    """The transport to the subscriber of `webhook`. `source` is this service's name. One delivery
    takes at most `timeout` seconds; an event for which that is too short stays, and goes with the
    next one. `tls` replaces the system's trusted certificates.

    A reply says no more than that the subscriber has taken the event. Raises InvalidWebhook where
    the secrets cannot be read.
    """

    def __init__(
        self,
        webhook: Webhook,
        *,
        source: str,
        clock: Clock,
        timeout: float = DEFAULT_TIMEOUT,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._webhook = webhook
        self._clock = clock
        self._time = timeout * _MARGIN
        self._secrets = [
            secret
            for reference in webhook.references
            for secret in secrets_in(Reference.parse(reference).read(), reference)
        ]
        self._keys = _own_keys(webhook)
        self._post = SubscriberPost(webhook.url, private=webhook.private, tls=tls)
        self._target = webhook.target
        self._headers = {
            "accept-encoding": "identity",
            "user-agent": f"sagabox ({attributes.quoted(source)})",
        }
        self._wait_until = 0.0
        self._why_wait = ""
        self._gone: Unreachable | None = None
        # By key, until an event of it is answered: how many events a batch near it may have. One
        # number for all keys would grow again by others' batches before this one's next turn.
        self._smaller: dict[str, int] = {}

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """Deliver the events, each key's in its order."""
        if not envelopes:
            return Answered(())
        for each in envelopes:
            try:
                check(each)
            except (MalformedEnvelope, ValueError, TypeError) as error:
                return Unacceptable(fit(f"the event {each.id} cannot be written: {error}"))
        if self._gone is not None:
            gone, self._gone = self._gone, None
            return gone
        left = self._wait_until - self._clock.monotonic()
        if left > 0:
            return Unreachable(fit(self._why_wait), sent=False, retry_after=left)
        carriage = Carriage(envelopes, *self._requests())
        for place, each in enumerate(envelopes):
            if is_command(each):
                carriage.answer(place, _NO_EVENT)
        if self._webhook.mode == Mode.BATCH:
            await carriage.in_batches(self._most(envelopes))
        else:
            await carriage.one_by_one(self._webhook.at_once)
        self._note(carriage)
        return carriage.delivery

    async def aclose(self) -> None:
        """Release connections. Calling it twice is fine."""
        await self._post.aclose()

    def _requests(self) -> tuple[Send, Callable[[], bool]]:
        """What makes a request, and whether another one may begin, within this delivery."""
        begun = self._clock.monotonic()

        def spent() -> float:
            return self._clock.monotonic() - begun

        async def send(envelopes: Sequence[Envelope]) -> Taken | Declined | Unreachable:
            request, now = request_of(self._webhook.mode, envelopes), self._clock.now()
            headers = self._headers | request.headers
            headers |= sign(self._secrets, id=request.id, body=request.body, now=now)
            if self._keys is not None:
                headers |= sign_as_ours(
                    self._keys,
                    method="POST",
                    target=self._target,
                    headers=headers,
                    body=request.body,
                    now=now,
                )
            match await self._post.send(headers, request.body, self._time - spent()):
                case Status() as status:
                    return meaning(status, now)
                case Unreachable() as trouble:
                    return trouble

        return send, lambda: spent() <= self._time * _BEGINS

    def _most(self, envelopes: Sequence[Envelope]) -> int:
        """How many events a batch of this delivery has at most."""
        smaller = [self._smaller[it.key] for it in envelopes if it.key in self._smaller]
        return min([self._webhook.batch, *smaller])

    def _note(self, carriage: Carriage) -> None:
        """Keep what counts beyond this delivery: the batch that the next one has to divide, and
        what the subscriber asked for."""
        if self._smaller:
            for key in carriage.answered:
                self._smaller.pop(key, None)
        if carriage.undivided is not None:
            # Each delivery halves it at least, so that the event at fault is alone one day.
            key, size = carriage.undivided
            self._smaller.pop(key, None)
            self._smaller[key] = size // 2
            if len(self._smaller) > _REMEMBERED:
                del self._smaller[next(iter(self._smaller))]
        trouble = carriage.trouble
        if trouble is None:
            return
        if trouble.retry_after is not None:
            self._wait_until = self._clock.monotonic() + trouble.retry_after
            self._why_wait = trouble.reason
        if trouble.gone and carriage.delivery is not trouble:
            # Part of this delivery was taken, and is told first.
            self._gone = trouble


def _own_keys(webhook: Webhook) -> Keyring | None:
    if webhook.sagabox_keys is None:
        return None
    try:
        return Keyring.from_text(Reference.parse(webhook.sagabox_keys).read())
    except InvalidKeyring as error:
        raise InvalidWebhook(
            f"sagabox_keys={webhook.sagabox_keys} of the webhook {webhook.shown}: {error.problem}",
            next_step=error.next_step,
        ) from None
