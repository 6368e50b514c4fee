"""Trials of signatures: what is not signed as it must be is turned away, and leaves nothing."""

from __future__ import annotations

from orchestrator.testing.conforming.conversation import Conversation
from orchestrator.testing.conforming.messages import batch
from orchestrator.testing.conforming.trial import Broken, Skipped, Trials
from outbox.ids import is_id
from outbox.safe_text import fit
from outbox.transports.http.posting import Answer
from outbox.transports.http.signing import (
    DATABASE_HEADER,
    KEY_ID_HEADER,
    MEANT_HEADER,
    SIGNATURE_HEADER,
    TARGET_HEADER,
    TIMESTAMP_HEADER,
    TO_HEADER,
    Keyring,
)

trials = Trials("The signature")

WINDOW = 300.0
_BEYOND = WINDOW + 60.0
_WITHIN = WINDOW - 60.0


@trials()
async def unsigned(it: Conversation) -> None:
    """A request that is not signed, or not wholly, is turned away."""
    add = it.add(it.account())
    for header in (SIGNATURE_HEADER, TIMESTAMP_HEADER, KEY_ID_HEADER):
        answer = await it.post([add], f"without {header}", after={header: None})
        it.status(answer, 401)
    answer = await it.post(
        [add], "with a signature of 63 digits", after={SIGNATURE_HEADER: "a" * 63}
    )
    it.status(answer, 401)
    await it.has(add.account)


@trials()
async def wrong_secret(it: Conversation) -> None:
    """A signature with another secret, or under an unknown key, is turned away."""
    add = it.add(it.account())
    signing = it.line.keys.signing
    other = it.line.entropy(32)
    wrong = Keyring({signing: other}, signing)
    it.status(await it.post([add], "signed with another secret", keys=wrong), 401)
    unknown = Keyring({"unheard-of": it.line.keys.signing_secret}, "unheard-of")
    it.status(await it.post([add], "signed under an unknown key", keys=unknown), 401)
    await it.has(add.account)
    # A message that was turned away is not known afterwards.
    await it.answers([add], "done")
    await it.has(add.account, add)


@trials()
async def stale(it: Conversation) -> None:
    """A time outside of the window is turned away, and one inside is not."""
    add = it.add(it.account())
    it.status(await it.post([add], f"signed {_BEYOND:.0f} s ago", ago=_BEYOND), 401)
    ahead = f"signed {_BEYOND:.0f} s in the future"
    it.status(await it.post([add], ahead, ago=-_BEYOND), 401)
    await it.has(add.account)
    await it.answers([add], "done", told=f"signed {_WITHIN:.0f} s ago", ago=_WITHIN)


@trials()
async def other_path(it: Conversation) -> None:
    """A signature of another path, or for another service, is turned away."""
    add = it.add(it.account())
    away = "/elsewhere/mail"
    it.status(await it.post([add], f"signed for the path {away}", target=away), 401)
    answer = await it.post(
        [add], f"signed for {away}, which it does not say", target=away, after={TARGET_HEADER: None}
    )
    it.status(answer, 401)
    answer = await it.post(
        [add],
        f"signed for {away}, and said to be for {it.line.target}",
        target=away,
        after={TARGET_HEADER: it.line.target},
    )
    it.status(answer, 401)
    it.status(await it.post([add], "signed for another service", to="another-service"), 401)
    await it.has(add.account)


@trials()
async def changed_on_the_way(it: Conversation) -> None:
    """What is signed cannot be changed."""
    add = it.add(it.account())
    changed = batch([add.with_data("of 1000", amount=1000)])
    answer = await it.post([add], "with another body than was signed", sent_body=changed)
    it.status(answer, 401)
    for told, more, after in (
        ("with a statement that was not signed", {}, {"Sagabox-Settled": it.new_id()}),
        ("without the statement that was signed", {"Sagabox-Settled": it.new_id()}, None),
        ("with a ce- header that was not signed", {}, {"ce-extra": "1"}),
        ("with another time than was signed", {}, {TIMESTAMP_HEADER: _later(it)}),
        ("without the service that was signed", {}, {TO_HEADER: None}),
        ("with another content type", {}, {"content-type": "application/cloudevents+json"}),
    ):
        gone = {name: None for name in more}
        answer = await it.post([add], told, more=more, after=after or gone)
        it.status(answer, 401)
    await it.has(add.account)


@trials(section="Several addresses")
async def another_database(it: Conversation) -> None:
    """What is meant for another store is turned away."""
    add = it.add(it.account())
    answer = await it.post([], "(an empty batch)")
    own = answer.headers.get(DATABASE_HEADER.lower()) if isinstance(answer, Answer) else None
    if own is None:
        raise Skipped(f"the participant tells no {DATABASE_HEADER}, so it has one address")
    if not is_id(own):
        raise Broken(f"{DATABASE_HEADER}: {fit(own)[:60]}", "a UUIDv7 in lower case")
    answer = await it.post([add], "for another store", more={MEANT_HEADER: it.new_id()})
    it.status(answer, 421)
    refused = answer.headers if isinstance(answer, Answer) else {}
    if refused.get(DATABASE_HEADER.lower()) != own:
        raise Broken("an error without the id of the store", f"{DATABASE_HEADER}: {own}")
    await it.has(add.account)
    await it.answers([add], "done", told="for this store", more={MEANT_HEADER: own})


@trials()
async def each_key(it: Conversation) -> None:
    """Each of the keys is valid, so that a secret can be changed."""
    keys = it.line.keys
    others = [it for it in keys.ids if it != keys.signing]
    if not others:
        raise Skipped("SAGABOX_SECRETS has one key")
    for id in others:
        secret = keys.secret_of(id)
        assert secret is not None, "it is one of the keys"
        add = it.add(it.account())
        await it.answers([add], "done", told=f"signed with {id}", keys=Keyring({id: secret}, id))


def _later(it: Conversation) -> str:
    return str(int(it.now().timestamp()) + 7)
