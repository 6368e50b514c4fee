from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest

from outbox.errors import InvalidMessage
from outbox.messages import (
    MAX_KEY_LENGTH,
    MAX_TYPE_LENGTH,
    Command,
    Event,
    Message,
    MessageType,
    type_of,
)


@dataclass(frozen=True)
class Counted:
    comments: int


@dataclass(frozen=True)
class Published(Event, type="articles.article-published.v1", key="article_id"):
    article_id: str


@dataclass(frozen=True)
class CloseThread(Command[Counted], type="comments.close-thread.v12", key="article_id"):
    article_id: str


@dataclass(frozen=True, slots=True)
class Slotted(Event, type="tests.slotted.v1", key="id"):
    id: str


@dataclass(frozen=True)
class Routed(Event, type="tests.routed.v1", key="route"):
    town: str
    street: str

    @property
    def route(self) -> str:
        return f"{self.town}/{self.street}"


class Undeclared(Event):
    pass


def test_a_type_names_its_owner_and_its_version() -> None:
    declared = type_of(CloseThread)
    assert declared == MessageType("comments", "close-thread", 12)
    assert str(declared) == "comments.close-thread.v12"


def test_a_class_and_its_instances_have_the_same_type() -> None:
    assert type_of(Published("7")) is type_of(Published)
    assert type_of(Slotted("7")) is type_of(Slotted)


def test_classes_keep_their_types_apart() -> None:
    assert str(type_of(Published)) == "articles.article-published.v1"
    assert str(type_of(Slotted)) == "tests.slotted.v1"


@pytest.mark.parametrize("text", ["a.b.v1", "articles.article-published.v10", "a1.b-2.v3"])
def test_a_type_reads_back_as_it_is_written(text: str) -> None:
    assert str(MessageType.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "articles",
        "articles.published",
        "articles.published.1",
        "articles.published.v0",
        "articles.published.v01",
        "articles.published.v",
        "articles.published.v1.v2",
        "Articles.published.v1",
        "articles.article_published.v1",
        "articles..v1",
        ".published.v1",
        "1articles.published.v1",
        "-articles.published.v1",
        "articles.published.v1\n",
        " articles.published.v1",
        "articles.published.v٣",
        "articles.publishéd.v1",
        "outbox.messages.Published",
        "a." + "b" * MAX_TYPE_LENGTH + ".v1",
        "a.b.v1" + "0" * 5000,
    ],
)
def test_another_text_is_no_type_and_the_error_shows_one(text: str) -> None:
    with pytest.raises(InvalidMessage, match="is not a message type") as raised:
        MessageType.parse(text)
    assert "comments.close-thread.v1" in raised.value.next_step


def test_the_longest_type_fits_the_column() -> None:
    longest = "a." + "b" * (MAX_TYPE_LENGTH - 5) + ".v1"
    assert len(longest) == MAX_TYPE_LENGTH
    assert str(MessageType.parse(longest)) == longest


def test_a_wrong_type_fails_where_the_class_is_declared() -> None:
    with pytest.raises(InvalidMessage, match="'Wrong' is not a message type"):

        class _Wrong(Event, type="Wrong", key="id"):
            pass


@pytest.mark.parametrize("declared", [{"type": "tests.half.v1"}, {"key": "id"}])
def test_a_type_without_a_key_or_a_key_without_a_type_is_refused(declared: Any) -> None:
    with pytest.raises(InvalidMessage, match="_Half declares only one of type= and key="):

        class _Half(Event, **declared):
            pass


@pytest.mark.parametrize("message", [Undeclared, Undeclared(), Event, Command, Message])
def test_a_class_without_a_type_is_refused_by_its_name(message: Any) -> None:
    cls = message if isinstance(message, type) else type(message)
    with pytest.raises(InvalidMessage, match=f"{cls.__name__} declares no message type") as raised:
        type_of(message)
    assert f"class {cls.__name__}(Event, type=" in raised.value.next_step


def test_the_key_is_the_value_of_the_declared_field() -> None:
    assert Published("7").message_key == "7"
    assert Slotted("8").message_key == "8"


def test_the_key_may_be_computed() -> None:
    assert Routed("Ulm", "Hafengasse").message_key == "Ulm/Hafengasse"


def test_a_key_may_be_any_printable_text_up_to_its_limit() -> None:
    for key in ("x" * MAX_KEY_LENGTH, "ü ö", "日本", "🜁", "a\u2028b"):
        assert Published(key).message_key == key


@pytest.mark.parametrize(
    "key",
    ["", "x" * (MAX_KEY_LENGTH + 1), 7, None, b"7", ["7"], "a\nb", "\0", "\x7f", "\x85", "\ud800"],
)
def test_a_key_that_cannot_travel_is_refused_naming_its_field(key: Any) -> None:
    with pytest.raises(InvalidMessage, match="the key 'article_id' of articles") as raised:
        _ = Published(key).message_key
    assert str(MAX_KEY_LENGTH) in raised.value.next_step
    assert len(raised.value.problem) < 200


def test_a_key_field_that_does_not_exist_is_refused_by_its_name() -> None:
    @dataclass(frozen=True)
    class Misspelt(Event, type="tests.misspelt.v1", key="artcle_id"):
        article_id: str

    with pytest.raises(InvalidMessage, match="'artcle_id'"):
        _ = Misspelt("7").message_key


def test_messages_are_values() -> None:
    assert Published("7") == Published("7")
    assert hash(Published("7")) == hash(Published("7"))
    with pytest.raises(FrozenInstanceError):
        Published("7").article_id = "8"  # type: ignore[misc]  # what must fail
