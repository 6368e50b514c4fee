"""What a Dockerfile says, step by step, and what a .dockerignore lets through to it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_OPTION = re.compile(r"--([a-z-]+)=(\S+)\s+")


@dataclass(frozen=True)
class Step:
    """One instruction: its name in capitals, its options, and all else that it says."""

    name: str
    options: Mapping[str, str]
    text: str

    def words(self) -> Sequence[str]:
        """What it says, as a shell would take it apart."""
        return shlex.split(self.text)

    def listed(self) -> Sequence[str]:
        """What it says, as a list in JSON. Raises ValueError where it has another form, which would
        put a shell between."""
        found = json.loads(self.text)
        if not isinstance(found, list):
            raise ValueError(f"{self.name} {self.text} is no list")
        return [str(it) for it in found]

    def commands(self) -> Sequence[str]:
        """The commands of a RUN, of which each runs where the one before did not fail."""
        return [it.strip() for it in self.text.split("&&")]


def steps(text: str) -> list[Step]:
    """The steps in their order."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [_step(line) for line in joined.splitlines() if line.strip()]


def _step(line: str) -> Step:
    name, _, rest = line.strip().partition(" ")
    options = {}
    rest = rest.lstrip()
    while found := _OPTION.match(rest):
        options[found[1]] = found[2]
        rest = rest[found.end() :]
    return Step(name.upper(), options, rest)


@dataclass(frozen=True)
class Health:
    """How an image's health is asked for."""

    command: Sequence[str]
    options: Mapping[str, str]


@dataclass
class Metadata:
    """What an image says beside its files."""

    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    ports: Sequence[int] = ()
    stop_signal: str = "SIGTERM"
    health: Health | None = None

    def take(self, step: Step) -> bool:
        """Note what the step says of it; False where the step is about files."""
        match step.name:
            case "ENV":
                for word in step.words():
                    name, _, value = word.partition("=")
                    self.environment[name] = value.replace("$PATH", self.environment["PATH"])
            case "WORKDIR":
                self.folder = step.text
            case "USER":
                self.user = step.text
            case "EXPOSE":
                self.ports = [int(it) for it in step.words()]
            case "STOPSIGNAL":
                self.stop_signal = step.text
            case "ENTRYPOINT":
                self.entrypoint = step.listed()
            case "CMD":
                self.command = step.listed()
            case "HEALTHCHECK":
                kind, _, command = step.text.partition(" ")
                listed = Step(kind, {}, command).listed()
                self.health = Health(listed, step.options)
            case "LABEL":
                pass
            case _:
                return False
        return True


class Context:
    """The files of a folder that its .dockerignore lets through."""

    def __init__(self, root: Path) -> None:
        self._root = root
        lines = (root / ".dockerignore").read_text("utf-8").splitlines()
        self._rules = [_rule(it) for it in lines if it.strip() and not it.startswith("#")]
        # Of a folder that is kept out, something may be let through again.
        self._entered = {it[1:].partition("/")[0] for it in lines if it.startswith("!")}

    def files(self) -> Iterator[Path]:
        """Their paths, relative to the folder."""
        for path in sorted(self._root.iterdir()):
            if path.is_file() and self._is_let(Path(path.name)):
                yield Path(path.name)
            elif path.is_dir() and (self._is_let(Path(path.name)) or path.name in self._entered):
                yield from self._below(path)

    def matching(self, source: str) -> Sequence[Path]:
        """The files that `COPY source` takes. Raises FileNotFoundError where there is none."""
        wanted = self._root / source
        relative = wanted.relative_to(self._root)
        if wanted.is_dir():
            found = list(self._below(wanted))
        else:
            found = [relative] if wanted.is_file() and self._is_let(relative) else []
        if not found:
            raise FileNotFoundError(
                f"COPY {source}: it is not there, or .dockerignore keeps it out"
            )
        return found

    def _below(self, folder: Path) -> Iterator[Path]:
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(self._root)
            if path.is_file() and self._is_let(relative):
                yield relative

    def _is_let(self, path: Path) -> bool:
        prefixes = ["/".join(path.parts[:count]) for count in range(1, len(path.parts) + 1)]
        let = True
        for pattern, lets in self._rules:
            if any(map(pattern.fullmatch, prefixes)):
                let = lets
        return let


def _rule(line: str) -> tuple[re.Pattern[str], bool]:
    """The last rule that fits a path, or a folder above it, decides."""
    text = line.strip().removeprefix("!").strip("/")
    parts = re.split(r"(\*\*/|\*)", text)
    known = {"**/": r"(?:.*/)?", "*": r"[^/]*"}
    return re.compile("".join(known.get(it, re.escape(it)) for it in parts)), line.startswith("!")
