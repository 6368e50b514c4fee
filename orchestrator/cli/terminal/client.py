"""The client of the orchestrator over HTTP. Every refusal becomes a CommandError."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.terminal.errors import CommandError, ExitCode
from orchestrator.cli.terminal.refusals import Answer, refusal
from outbox.clock import SystemClock
from outbox.spelling import safe

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
VARIABLE = "SAGABOX_URL_ORCHESTRATOR"
TOKEN_VARIABLE = "SAGABOX_TOKEN"
"""The token that every request shows, where it is set."""

Url = Annotated[
    str | None,
    typer.Option(
        "--url", help=f"Where the orchestrator is; otherwise {VARIABLE}, or {DEFAULT_URL}."
    ),
]
"""The option of every command that asks the orchestrator."""

_PATIENCE = 10.0  # seconds for an answer
_HEARTBEATS = 35.0  # seconds of silence on a stream, which is never silent for more than ten


class Api:
    """The client of one orchestrator. `connect` makes it."""

    def __init__(self, url: str, client: httpx.Client) -> None:
        self.url = url
        self._client = client
        self._answered_at: datetime | None = None

    @property
    def now(self) -> datetime:
        """The time on the orchestrator's clock, when it answered last."""
        return self._answered_at or SystemClock().now()

    def get(self, path: str, **parameters: Any) -> Any:
        """The JSON at that address. A parameter that is None is left out. Raises CommandError."""
        return self.ask("GET", path, parameters=parameters).body

    def post(self, path: str, body: object, *, headers: Mapping[str, str] | None = None) -> Answer:
        """The answer to that body. Raises CommandError where it is refused."""
        return self.ask("POST", path, content=json.dumps(body).encode(), headers=headers)

    def ask(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        patience: float = _PATIENCE,
    ) -> Answer:
        """Send one request, and wait `patience` seconds for the answer. Raises CommandError."""
        import httpx

        typed = {"content-type": "application/json"} if content is not None else {}
        try:
            response = self._client.request(
                method,
                path,
                params={name: it for name, it in (parameters or {}).items() if it is not None},
                content=content,
                headers={**typed, **(headers or {})},
                timeout=httpx.Timeout(_PATIENCE, read=patience),
            )
        except httpx.RequestError as error:
            raise self._unreachable(error, method, path) from error
        except httpx.InvalidURL as error:
            raise _no_request(method, path, error) from error
        return self._checked(response, method, path)

    @contextmanager
    def stream(self, path: str, *, last_event_id: str | None) -> Iterator[Iterator[str]]:
        """The lines of an event stream, for as long as the block lasts.

        Raises CommandError where it is refused, or where the connection ends by a failure.
        """
        import httpx

        headers = {"accept": "text/event-stream"}
        if last_event_id is not None:
            headers["last-event-id"] = last_event_id
        timeout = httpx.Timeout(_PATIENCE, read=_HEARTBEATS)
        try:
            with self._client.stream("GET", path, headers=headers, timeout=timeout) as response:
                if response.status_code != httpx.codes.OK:
                    response.read()
                    self._checked(response, "GET", path)
                yield response.iter_lines()
        except httpx.RequestError as error:
            raise self._unreachable(error, "GET", path) from error
        except httpx.InvalidURL as error:
            raise _no_request("GET", path, error) from error

    def _checked(self, response: httpx.Response, method: str, path: str) -> Answer:
        try:
            body = response.json()
        except ValueError:
            body = None
        answer = Answer(response.status_code, body, dict(response.headers))
        self._answered_at = _date_of(answer)
        if response.is_success and isinstance(body, dict):
            return answer
        if isinstance(body, dict) and {"status", "detail", "next_step", "code"} <= body.keys():
            raise refusal(answer, method, path)
        raise CommandError(
            f"{self.url} answered {method} {safe(path)} with {response.status_code}",
            "that is no answer of an orchestrator: another program listens there",
            "give the orchestrator's address: --url URL" + self._if_within_a_service(),
            exit_code=ExitCode.UNREACHABLE,
        )

    def _if_within_a_service(self) -> str:
        bare = self.url.rstrip("/")
        if "/" in bare.partition("://")[2]:
            return ""
        return f"; of one within a service: --url {bare}/orchestrator"

    def _unreachable(self, error: Exception, method: str, path: str) -> CommandError:
        import httpx

        sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        if sent and method == "POST":
            next_step = "it may have been done all the same: " + _look(path)
        else:
            next_step = "sagabox serve orchestrator, or say where one runs: --url URL"
        happened = "did not answer" if sent else "cannot be reached"
        return CommandError(
            f"the orchestrator at {safe(self.url)} {happened}",
            safe(error) or type(error).__name__,
            next_step,
            exit_code=ExitCode.UNREACHABLE,
        )


@contextmanager
def connect(url: str | None) -> Iterator[Api]:
    """The orchestrator at `url`, else at that of the environment, else at the usual one.

    Raises CommandError where that is no address.
    """
    import httpx

    address = (url or os.environ.get(VARIABLE) or DEFAULT_URL).rstrip("/")
    try:
        parsed = httpx.URL(address)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise _no_address(address) from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise _no_address(address)
    # The environment's proxies are for the world outside.
    with httpx.Client(base_url=address, headers=_credentials(), trust_env=False) as client:
        yield Api(address, client)


def _credentials() -> dict[str, str]:
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        return {}
    if not (token.isascii() and token.isprintable()):
        raise CommandError(
            f"what {TOKEN_VARIABLE} holds is no token",
            "a token is made of letters, digits, dashes and underscores",
            f"export {TOKEN_VARIABLE}=TOKEN, as sagabox token create printed it",
        )
    return {"authorization": f"Bearer {token}"}


def _no_address(address: str) -> CommandError:
    return CommandError(
        f"{safe(address)} is no address of an orchestrator",
        "it must begin with http:// or https:// and name a host",
        f"--url {DEFAULT_URL}",
    )


def _no_request(method: str, path: str, error: Exception) -> CommandError:
    return CommandError(
        f"{method} {safe(path)[:100]} cannot be asked for",
        safe(error),
        "give shorter names and filters",
    )


def _date_of(answer: Answer) -> datetime | None:
    try:
        found = parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError, OverflowError):  # the last for numbers of any length
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _look(path: str) -> str:
    match path.strip("/").split("/"):
        case ["sagas", instance_id, _]:
            return f"sagabox show {instance_id} --history"
        case ["sagas", name]:
            return f"sagabox list --name {name}"
        case _:
            return "sagabox dead-letters"
