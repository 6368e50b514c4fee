"""Secrets by reference: `env:NAME` is an environment variable, `file:PATH` a file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from outbox.errors import InvalidWebhook

LARGEST_FILE = 16 * 1024
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to a secret, which is read when the service runs. Its text holds no secret."""

    kind: str
    place: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises InvalidWebhook where it is none, without the text: it may be the secret itself."""
        kind, separator, place = text.partition(":")
        if separator and kind == "env" and _NAME.fullmatch(place):
            return cls(kind, place)
        if separator and kind == "file" and place:
            return cls(kind, place)
        raise InvalidWebhook(
            "a secret is not given by reference",
            next_step="put it into an environment variable or a file, and write env:NAME or "
            "file:/PATH in its place",
        )

    def __str__(self) -> str:
        return f"{self.kind}:{self.place}"

    def read(self) -> str:
        """The text at that place. Raises InvalidWebhook where there is none."""
        if self.kind == "env":
            found = os.environ.get(self.place)
            if not found:
                raise InvalidWebhook(
                    f"the secret {self} is not there: the environment variable is not set",
                    next_step=f"export {self.place}=whsec_...",
                )
            return found
        try:
            with Path(self.place).open("rb") as file:
                content = file.read(LARGEST_FILE + 1)
            if len(content) > LARGEST_FILE:
                raise ValueError(f"it has more than {LARGEST_FILE} bytes")
            return content.decode("ascii")
        except OSError as error:
            problem = error.strerror or type(error).__name__
        except UnicodeDecodeError:
            problem = "it is not plain text"
        except ValueError as error:
            problem = str(error)
        raise InvalidWebhook(
            f"the secret {self} cannot be read: {problem}",
            next_step="correct the path, or let the user of this process read the file",
        )
