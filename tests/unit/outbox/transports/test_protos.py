"""The .proto files: the code that stands beside them is theirs, and what was released is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tests.support.repository import protos


@pytest.mark.parametrize("folder", protos.FOLDERS, ids=lambda it: it.parent.name)
def test_the_code_is_what_the_compiler_makes_of_the_declaration(folder: Path) -> None:
    there = {each.name: each.read_text() for each in folder.glob("*_pb2.py*")}
    assert there == protos.generated(folder), "run `make protos`, and commit what it writes"


def test_a_client_of_a_released_version_is_still_understood() -> None:
    released = FileDescriptorSet.FromString(protos.RELEASED.read_bytes())
    now = FileDescriptorSet.FromString(protos.descriptors())
    assert released.file
    assert list(protos.broken(released, now)) == []


def _file(it: FileDescriptorSet) -> None:
    del it.file[0]


def _service(it: FileDescriptorSet) -> None:
    it.file[0].service[0].name = "Letters"


def _method(it: FileDescriptorSet) -> None:
    it.file[0].service[0].method[0].output_type = ".sagabox.v1.Reply"


def _streaming(it: FileDescriptorSet) -> None:
    it.file[0].service[0].method[0].server_streaming = True


def _message(it: FileDescriptorSet) -> None:
    it.file[0].message_type[2].name = "Letter"


def _removed(it: FileDescriptorSet) -> None:
    del it.file[0].message_type[2].field[3]


def _renumbered(it: FileDescriptorSet) -> None:
    it.file[0].message_type[2].field[3].number = 99


def _renamed(it: FileDescriptorSet) -> None:
    it.file[0].message_type[2].field[3].name = "kind"


def _other_type(it: FileDescriptorSet) -> None:
    field = it.file[0].message_type[2].field[3]
    field.type = field.TYPE_BYTES


def _one_where_were_many(it: FileDescriptorSet) -> None:
    field = it.file[0].message_type[0].field[0]
    field.label = field.LABEL_OPTIONAL


@pytest.mark.parametrize(
    "change",
    [
        _file,
        _service,
        _method,
        _streaming,
        _message,
        _removed,
        _renumbered,
        _renamed,
        _other_type,
        _one_where_were_many,
    ],
)
def test_a_change_that_old_peers_would_not_understand_is_found(
    change: Callable[[FileDescriptorSet], None],
) -> None:
    released = FileDescriptorSet.FromString(protos.RELEASED.read_bytes())
    changed = FileDescriptorSet.FromString(protos.RELEASED.read_bytes())
    change(changed)
    assert list(protos.broken(released, changed))


def test_what_is_added_breaks_nothing() -> None:
    released = FileDescriptorSet.FromString(protos.RELEASED.read_bytes())
    added = FileDescriptorSet.FromString(protos.RELEASED.read_bytes())
    field = added.file[0].message_type[2].field.add()
    field.CopyFrom(released.file[0].message_type[2].field[3])
    field.name, field.number = "added", 99
    added.file[0].message_type.add(name="Added")
    assert list(protos.broken(released, added)) == []
