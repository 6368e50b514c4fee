"""The image that the steps of deploy/Dockerfile make, and the blog of deploy/compose.yaml in it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compose_spec import parse_duration

from tests.support.checkout import ROOT
from tests.support.databases.postgres import PostgresServer
from tests.support.images import composed
from tests.support.images.building import Stage, build
from tests.support.images.containers import (
    Container,
    Mount,
    Place,
    network,
    require_namespaces,
)
from tests.support.images.told import filled_in
from tests.support.processes.waiting import wait_until

# On a busy machine; alone all take about half a minute.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_SERVICES = ("orchestrator-1", "articles", "comments")
_VISITOR = ROOT / "tests" / "support" / "images" / "visitor.py"
_EXTRAS = (
    *("aio_pika", "aiokafka", "boto3", "grpc", "grpc_health", "grpc_reflection", "nats"),
    *("opentelemetry.exporter.otlp.proto.http", "opentelemetry.sdk", "psycopg", "redis"),
)

_WRITE = """
import json, os, sys
told = {"user": os.getuid(), "groups": [os.getgid(), *os.getgroups()], "pid": os.getpid()}
for path in sys.argv[1:]:
    try:
        open(path, "w").close()
        told[path] = 0
    except OSError as error:
        told[path] = error.errno
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
told["rights"] = sorted({status[it].strip() for it in ("CapEff", "CapPrm", "CapInh", "CapAmb")})
told["may gain"] = status["NoNewPrivs"].strip() == "0"
print(json.dumps(told))
"""


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The image, made once."""
    require_namespaces()
    folder = tmp_path_factory.mktemp("image")
    yield build(folder)
    shutil.rmtree(folder)


@pytest.fixture
def data(tmp_path: Path, image: Stage) -> Path:
    """The folder that is seen as /data, as a new volume is made for it."""
    folder = tmp_path / "data"
    shutil.copytree(image.root / "data", folder)
    owner = (image.root / "data").stat()
    os.chown(folder, owner.st_uid, owner.st_gid)
    return folder


@pytest.fixture
def place(image: Stage, data: Path) -> Iterator[Place]:
    """The image with a volume, and a network of its own."""
    with network() as alone:
        yield Place(image.root, image.says, [Mount(data, "/data")], alone)


def test_the_image_is_entered_by_an_ordinary_user_who_may_write_its_data_only(place: Place) -> None:
    paths = ("/app/new", "/etc/passwd", "/usr/local/bin/new", "/new")
    ran = place.run("-c", _WRITE, *paths, "/data/new", "/tmp/new", entrypoint=["python"])
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    uid, gid = map(int, place.says.user.split(":"))
    assert (told["user"], set(told["groups"]), told["pid"]) == (uid, {gid}, 1)
    assert told["rights"] == ["0" * 16]
    assert told["may gain"] is False
    # Not for want of a right alone: the root is only read.
    assert {told[it] for it in paths} == {errno.EROFS}
    assert (told["/data/new"], told["/tmp/new"]) == (0, 0)


def test_without_a_read_only_root_the_user_may_write_to_it_all_the_same_nowhere(
    place: Place,
) -> None:
    paths = ("/app/new", "/app/bin/sagabox", "/etc/passwd", "/new")
    written = replace(place, is_read_only=False).run("-c", _WRITE, *paths, entrypoint=["python"])
    told = json.loads(written.out)
    assert {told[it] for it in paths} == {errno.EACCES}


def test_the_image_has_the_command_and_no_tools_to_build_with(place: Place) -> None:
    version = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    told = place.run("--version")
    assert (told.code, told.out.split()) == (0, version)
    assert "--rules" in place.run("audit", "--help").out
    searched = (
        "import importlib.util as it, sys; print([n for n in sys.argv[1:] if it.find_spec(n)])"
    )
    unwanted = ("pip", "hatchling", "pytest", "mypy", "tests")
    ran = place.run("-c", searched, *unwanted, entrypoint=["python", "-P"])
    assert ran.out.strip() == "[]", ran.err


def test_each_extra_of_the_image_finds_the_libraries_that_it_needs(place: Place) -> None:
    imported = "import importlib, sys; [importlib.import_module(it) for it in sys.argv[1:]]"
    ran = place.run("-c", imported, *_EXTRAS, entrypoint=["python"])
    assert ran.code == 0, ran.err


def test_the_image_migrates_a_database_of_postgresql(
    image: Stage, postgres_server: PostgresServer
) -> None:
    # By the network of this machine, on which the server is.
    place = Place(image.root, image.says)
    postgres_server.create_database("image")
    try:
        options = ("orchestrator", "--database", postgres_server.url("image", driver=None))
        ran = place.run("migrate", "upgrade", *options)
        assert ran.code == 0, ran.err
        checked = place.run("migrate", "check", *options)
        assert checked.code == 0, checked.out + checked.err
    finally:
        postgres_server.drop_database("image")


# The blog of compose.yaml


class Blog:
    """The services of compose.yaml, on SQLite: with its commands, variables, secrets, volumes and
    scripts, in a network where all names are loopback."""

    def __init__(self, place: Place, folder: Path) -> None:
        self._folder = folder
        secrets, hosts = folder / "secrets", folder / "hosts"
        subprocess.run([ROOT / "deploy" / "make-secrets", secrets], check=True)
        for name in ("orchestrator", "articles", "comments"):
            (secrets / f"{name}-database").unlink()
            (secrets / f"{name}-database").write_text(f"sqlite:////data/{name}.sqlite\n")
        # In a container the folder itself is the engine's.
        secrets.chmod(0o755)
        names = " ".join(["localhost", "orchestrator", "orchestrator-2", *_SERVICES])
        hosts.write_text(f"127.0.0.1 {names}\n")
        self._place = replace(
            place,
            mounts=[
                *place.mounts,
                Mount(hosts, "/etc/hosts", read_only=True),
                Mount(secrets, "/run/secrets", read_only=True),
                Mount(place.mounts[0].source, "/run/tokens", read_only=True),
            ],
        )
        self.running: dict[str, Container] = {}

    def once(self, name: str) -> None:
        """Run one of those that end."""
        service = composed.ours()[name]
        ran = self._place.run(
            *(filled_in(it, {}) for it in service["command"]),
            entrypoint=service.get("entrypoint"),
            environment=composed.variables(service),
        )
        assert ran.code == 0, (name, ran.out, ran.err)

    def start(self, name: str) -> None:
        """Start one of those that serve."""
        service = composed.serving()[name]
        self.running[name] = self._place.start(
            *service["command"],
            environment=composed.variables(service),
            log=self._folder / f"{name}.log",
        )

    def is_healthy(self, name: str) -> bool:
        """What the healthcheck of compose.yaml says of it."""
        _cmd, *command = composed.serving()[name]["healthcheck"]["test"]
        return self._place.run(entrypoint=command).code == 0

    def until_ready(self, name: str) -> None:
        """Wait until its healthcheck is content."""

        def ready() -> bool:
            container = self.running[name]
            assert container.is_up(), container.log
            return self.is_healthy(name)

        wait_until(ready, deadline=90, what=f"{name} is ready")

    def health(self, *arguments: str) -> int:
        """The exit code of the image's own healthcheck."""
        assert self._place.says.health is not None
        return self._place.run(*arguments, entrypoint=self._place.says.health.command).code

    def visit(self) -> Mapping[str, Any]:
        """What a visitor sees who publishes an article, comments on it, and deletes it."""
        ran = self._place.run("-c", _VISITOR.read_text(), entrypoint=["python"])
        logs = {name: it.log[-2000:] for name, it in self.running.items()}
        assert ran.code == 0, (ran.out, ran.err, logs)
        found: Mapping[str, Any] = json.loads(ran.out)
        return found


@pytest.fixture
def blog(place: Place, tmp_path: Path) -> Iterator[Blog]:
    """The blog, of which nothing runs yet. At the end all of it is ended."""
    made = Blog(place, tmp_path)
    try:
        yield made
    finally:
        for container in made.running.values():
            container.kill()


def test_the_blog_of_compose_runs_in_the_image_and_deletes_an_article_with_its_comments(
    blog: Blog, data: Path
) -> None:
    for name in composed.migrating():
        blog.once(name)
    blog.once("metrics-token")
    token = (data / "metrics").read_text()
    blog.once("metrics-token")  # as when everything is started anew
    assert (data / "metrics").read_text() == token
    assert token.startswith("sgb_")

    assert blog.health() == 1, "nothing runs yet"
    blog.start("articles")
    blog.until_ready("articles")
    assert blog.health() == 0, "whichever service it is"
    assert blog.health("/readyz", "8001") == 0
    assert blog.health("/readyz", "8002") == 1, "at its own port only"
    assert blog.health("/no-such-address", "8001") == 1
    assert not blog.is_healthy("comments")
    for name in ("orchestrator-1", "comments"):
        blog.start(name)
    for name in ("orchestrator-1", "comments"):
        blog.until_ready(name)

    seen = blog.visit()
    assert seen["status"] == "COMPLETED", seen
    assert seen["article"] == 410
    assert seen["comments"] == []
    assert seen["late comment"] == 410
    assert seen["metrics"] == {"orchestrator": 200, "articles": 200, "comments": 200}
    assert seen["without a token"] == 401
    # As JSON, and nothing in it that was a secret.
    for container in blog.running.values():
        assert all(it.startswith("{") for it in container.log.splitlines()), container.log
        assert token.strip() not in container.log

    for name in _SERVICES:
        container = blog.running[name]
        container.send(signal.Signals[blog_stop_signal(name)])
        patience = parse_duration(composed.serving()[name]["stop_grace_period"])
        assert container.wait(patience) == 0, container.log
    assert blog.health() == 1, "all have ended"


def blog_stop_signal(name: str) -> str:
    """By which signal compose.yaml stops it."""
    return str(composed.serving()[name]["stop_signal"])
