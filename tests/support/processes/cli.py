"""The command `sagabox` within the test's own process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from typer.testing import CliRunner

from orchestrator.cli import main
from tests.support.databases.migrating import Told


def sagabox(*arguments: str, stdin: str | None = None, **variables: str | None) -> Told:
    """Run it with these arguments and environment variables."""
    return sagabox_in("utf-8", *arguments, stdin=stdin, variables=variables)


def sagabox_in(
    charset: str,
    *arguments: str,
    stdin: str | None = None,
    variables: Mapping[str, str | None] | None = None,
) -> Told:
    """The same with an output of that encoding."""
    runner = CliRunner(charset=charset)
    result = runner.invoke(main, arguments, input=stdin, env=variables)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Told(result.exit_code, result.stdout, result.stderr)


def told_error(told: Told) -> dict[str, Any]:
    """The error that was told in JSON."""
    assert told.out == "", told
    error: dict[str, Any] = json.loads(told.err)["error"]
    assert error["exit_code"] == told.code
    return error
