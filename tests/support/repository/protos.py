"""The Python code of the .proto files: `make protos` writes it, and a test compares it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tests.support.checkout import ROOT

PACKAGE = "sagabox/v1"
FOLDERS = (ROOT / "outbox/transports/grpc/v1", ROOT / "orchestrator/api_grpc/v1")
"""Each folder with a .proto of that package; its code stands beside it."""

RELEASED = ROOT / "tests" / "unit" / "outbox" / "transports" / "sagabox-v1.binpb"
"""What was released, as descriptors: `python -m` of this module writes it with `released`."""


def generated(folder: Path) -> dict[str, str]:
    """The text of each file that the compiler makes of the folder's .proto, by the file's name."""
    sources = sorted(each.name for each in folder.glob("*.proto"))
    with tempfile.TemporaryDirectory() as into:
        _compile(folder, sources, f"--python_out={into}", f"--pyi_out={into}")
        return {it.name: it.read_text() for it in sorted(Path(into, PACKAGE).iterdir())}


def descriptors() -> bytes:
    """The FileDescriptorSet of all of them, as it is now."""
    with tempfile.TemporaryDirectory() as into:
        found = b""
        for number, folder in enumerate(FOLDERS):
            path = Path(into, f"{number}.binpb")
            sources = sorted(each.name for each in folder.glob("*.proto"))
            _compile(folder, sources, f"--descriptor_set_out={path}")
            found += path.read_bytes()  # sets in a row are one set
        return found


def broken(old: FileDescriptorSet, new: FileDescriptorSet) -> Iterator[str]:
    """What a peer that speaks `old` would not find, or misread, in `new`, as sentences."""
    earlier, later = dict(_declared(old)), dict(_declared(new))
    for name, form in earlier.items():
        if name not in later:
            yield f"{name} is gone"
        elif later[name] != form:
            yield f"{name} was {form}, and is {later[name]}"


def _declared(files: FileDescriptorSet) -> Iterator[tuple[str, object]]:
    """Everything that is declared, by its name, with what must not change of it."""
    for file in files.file:
        for service in file.service:
            yield f"{file.package}.{service.name}", "service"
            for method in service.method:
                streams = (method.client_streaming, method.server_streaming)
                signature = (method.input_type, method.output_type, *streams)
                yield f"{file.package}.{service.name}/{method.name}", signature
        for message in file.message_type:
            yield f"{file.package}.{message.name}", "message"
            # No message has another one within, and no enum is used: names of outcomes are texts.
            assert not message.nested_type, message.name
            for field in message.field:
                form = (field.number, field.type, field.type_name, field.label)
                yield f"{file.package}.{message.name}.{field.name}", form


def _compile(folder: Path, sources: list[str], *options: str) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PACKAGE}={folder}", *options]
    subprocess.run([*command, *(f"{PACKAGE}/{name}" for name in sources)], check=True)


def main() -> None:
    """Write the code of each .proto beside it; for `released` also what was released."""
    if "released" in sys.argv[1:]:
        RELEASED.write_bytes(descriptors())
    for folder in FOLDERS:
        for name, text in generated(folder).items():
            (folder / name).write_text(text)


if __name__ == "__main__":
    main()
