"""Settings that stand in files: SAGABOX_X_FILE names the file whose text is SAGABOX_X.

So secrets come from where Docker, Kubernetes and systemd put them, and are in no environment that
these show.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from pathlib import Path

from orchestrator.cli.terminal.errors import CommandError

PREFIX, SUFFIX = "SAGABOX_", "_FILE"
MAX_FILE_BYTES = 64 * 1024
"""The most bytes of such a file."""


def read_setting_files(environment: MutableMapping[str, str]) -> None:
    """Put what the files say into the environment, in place of the variables that name them.

    Raises CommandError where a setting is there already, or where a file cannot be a setting; then
    the environment is as it was.
    """
    found = _found(environment)
    for variable, text in found.items():
        del environment[variable]
        environment[variable.removesuffix(SUFFIX)] = text


def _found(environment: Mapping[str, str]) -> Mapping[str, str]:
    """The text of each file, by the variable that names it. One that is empty names none."""
    found = {}
    for variable, path in environment.items():
        name = variable.removesuffix(SUFFIX)
        if not path or name in (variable, PREFIX) or not name.startswith(PREFIX):
            continue
        if environment.get(name):
            raise CommandError(
                f"{name} is set twice",
                f"{variable} names a file for it, and {name} is set, too",
                f"unset {name}, or unset {variable}",
            )
        found[variable] = _text(variable, Path(path))
    return found


def _text(variable: str, path: Path) -> str:
    """What the file says, in one line. The error never shows it."""
    try:
        with path.open("rb") as file:
            read = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _useless(variable, path, error.strerror or str(error)) from error
    try:
        text = read.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise _useless(variable, path, "it is not UTF-8") from None
    if len(read) > MAX_FILE_BYTES:
        raise _useless(variable, path, f"it has more than {MAX_FILE_BYTES} bytes")
    if not text:
        raise _useless(variable, path, "it is empty")
    if not text.isprintable():
        raise _useless(variable, path, "a setting is one line of printable text, and this is not")
    return text


def _useless(variable: str, path: Path, why: str) -> CommandError:
    return CommandError(
        f"the file that {variable} names cannot be used",
        f"{path}: {why}",
        f"write the setting into that file, or unset {variable}",
    )
