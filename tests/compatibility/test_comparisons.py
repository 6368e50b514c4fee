"""The comparisons find each change that breaks what was written for the earlier version, and take
each that adds something."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.compatibility import addresses, names, surroundings

Change = Callable[[Any], None]


def _parameter(name: str, kind: str = "POSITIONAL_OR_KEYWORD", default: str | None = None) -> Any:
    return {"name": name, "kind": kind, "default": default}


def _names() -> Any:
    return {
        "outbox": {
            "add": {
                "kind": "function",
                "parameters": [
                    _parameter("session"),
                    _parameter("message"),
                    _parameter("to", "KEYWORD_ONLY", "None"),
                    _parameter("rest", "VAR_KEYWORD"),
                ],
            },
            "Clock": {
                "kind": "protocol",
                "bases": ["Clock", "Protocol"],
                "parameters": None,
                "members": {"now": {"kind": "function", "parameters": []}},
            },
            "Outcome": {
                "kind": "class",
                "bases": ["Outcome", "StrEnum", "str"],
                "parameters": None,
                "members": {"DONE": {"kind": "value", "value": "'done'"}},
            },
        }
    }


def _add(it: Any) -> Any:
    return it["outbox"]["add"]["parameters"]


def _swap(it: Any) -> None:
    _add(it)[0], _add(it)[1] = _add(it)[1], _add(it)[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda it: it.pop("outbox"), "outbox: the module is gone"),
        (lambda it: it["outbox"].pop("add"), "outbox.add: the name is gone"),
        (lambda it: _add(it).pop(1), "outbox.add: the parameter message is gone"),
        (lambda it: _add(it).pop(3), "outbox.add: it takes no further arguments any more (rest)"),
        (
            lambda it: _add(it).append(_parameter("why", "KEYWORD_ONLY")),
            "outbox.add: the new parameter why has no default",
        ),
        (_swap, "outbox.add: the parameter session stands at another position"),
        (
            lambda it: _add(it)[1].update(kind="KEYWORD_ONLY"),
            "outbox.add: the parameter message stands at another position",
        ),
        (
            lambda it: _add(it)[1].update(kind="POSITIONAL_ONLY"),
            "outbox.add: the parameter message cannot be given by its name any more",
        ),
        (
            lambda it: _add(it)[2].update(default=None),
            "outbox.add: the parameter to has no default any more",
        ),
        (
            lambda it: _add(it)[2].update(default="1"),
            "outbox.add: the default of to was None, and is 1",
        ),
        (
            lambda it: it["outbox"]["Outcome"].update(bases=["Outcome"]),
            "outbox.Outcome: it is no str any more",
        ),
        (
            lambda it: it["outbox"]["Outcome"]["members"].pop("DONE"),
            "outbox.Outcome.DONE: the name is gone",
        ),
        (
            lambda it: it["outbox"]["Outcome"]["members"]["DONE"].update(value="'did'"),
            "outbox.Outcome.DONE: it was 'done', and is 'did'",
        ),
        (
            lambda it: it["outbox"]["add"].update(kind="class"),
            "outbox.add: it was a function, and is a class",
        ),
        (
            lambda it: it["outbox"]["Clock"]["members"].update(
                later={"kind": "function", "parameters": []}
            ),
            "outbox.Clock.later: a class that implements it lacks this",
        ),
    ],
)
def test_a_change_of_names_that_breaks_code_is_found(change: Change, told: str) -> None:
    new = _names()
    change(new)
    assert told in list(names.broken(_names(), new))


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.update(outboxes={}),
        lambda it: it["outbox"].update(Webhook={"kind": "value", "value": "1"}),
        lambda it: _add(it).append(_parameter("why", "KEYWORD_ONLY", "None")),
        lambda it: _add(it)[2].update(kind="POSITIONAL_OR_KEYWORD"),
        lambda it: it["outbox"]["Outcome"]["members"].update(NEW={"kind": "value", "value": "1"}),
    ],
)
def test_a_name_that_is_added_breaks_no_code(change: Change) -> None:
    new = _names()
    change(new)
    assert list(names.broken(_names(), new)) == []


def _api() -> Any:
    run = {
        "type": "object",
        "required": ["id"],
        "properties": {
            "id": {"type": "string"},
            "ended_at": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "steps": {"type": "array", "items": {"$ref": "#/components/schemas/Step"}},
        },
    }
    step = {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string"},
            "within": {"$ref": "#/components/schemas/Step"},
        },
    }
    start = {
        "type": "object",
        "required": ["reason"],
        "properties": {"reason": {"type": "string"}, "how": {"enum": ["now", "later"]}},
    }
    return {
        "paths": {
            "/sagas": {
                "post": {
                    "parameters": [
                        {"in": "query", "name": "wait", "schema": {"type": "integer"}},
                    ],
                    "requestBody": {
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/Start"}}
                        }
                    },
                    "responses": {
                        "202": {
                            "content": {
                                "application/json": {"schema": {"$ref": "#/components/schemas/Run"}}
                            }
                        }
                    },
                }
            }
        },
        "components": {"schemas": {"Run": run, "Step": step, "Start": start}},
    }


def _post(it: Any) -> Any:
    return it["paths"]["/sagas"]["post"]


def _schema(it: Any, name: str) -> Any:
    return it["components"]["schemas"][name]


_POST = "POST /sagas"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda it: it["paths"].pop("/sagas"), f"{_POST}: it is gone"),
        (
            lambda it: _post(it)["parameters"].clear(),
            f"{_POST}: the parameter wait (query) is gone",
        ),
        (
            lambda it: _post(it)["parameters"][0].update(required=True),
            f"{_POST}: the parameter wait (query) must be given now",
        ),
        (
            lambda it: _post(it)["parameters"][0].update(schema={"type": "boolean"}),
            f"{_POST}: the parameter wait (query) takes no integer as a whole any more",
        ),
        (
            lambda it: _post(it)["requestBody"].update(required=True),
            f"{_POST}: a body must be given now",
        ),
        (
            lambda it: _post(it).pop("requestBody"),
            f"{_POST}: it takes no application/json any more",
        ),
        (
            lambda it: _schema(it, "Start")["properties"].pop("how"),
            f"{_POST}: the body takes no field how any more",
        ),
        (
            lambda it: _schema(it, "Start")["required"].append("how"),
            f"{_POST}: the body must have the field how now",
        ),
        (
            lambda it: _schema(it, "Start")["properties"]["how"]["enum"].remove("later"),
            f"{_POST}: the body takes no 'later' as how any more",
        ),
        (
            lambda it: _schema(it, "Start")["properties"]["reason"].update(enum=["x"]),
            f"{_POST}: the body takes no any other value as reason any more",
        ),
        (lambda it: _post(it)["responses"].clear(), f"{_POST}: it answers no 202 any more"),
        (
            lambda it: _post(it)["responses"]["202"]["content"].clear(),
            f"{_POST}: 202 is no application/json any more",
        ),
        (
            lambda it: _schema(it, "Run")["properties"].pop("ended_at"),
            f"{_POST}: 202 has no field ended_at any more",
        ),
        (
            lambda it: _schema(it, "Step")["properties"].pop("name"),
            f"{_POST}: 202 has no field steps[].name any more",
        ),
        (
            lambda it: _schema(it, "Run")["required"].clear(),
            f"{_POST}: 202 may lack the field id now",
        ),
        (
            lambda it: _schema(it, "Run")["properties"]["id"].update(type="integer"),
            f"{_POST}: 202 may have integer as id",
        ),
    ],
)
def test_a_change_of_addresses_that_breaks_callers_is_found(change: Change, told: str) -> None:
    new = _api()
    change(new)
    assert told in list(addresses.broken(_api(), new))


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["paths"].update({"/more": {}}),
        lambda it: _post(it)["parameters"].append(
            {"in": "query", "name": "more", "schema": {"type": "string"}}
        ),
        lambda it: _schema(it, "Start")["properties"].update(more={"type": "string"}),
        lambda it: _schema(it, "Start")["required"].clear(),
        lambda it: _schema(it, "Run")["properties"].update(more={"type": "string"}),
        lambda it: _schema(it, "Run")["required"].append("steps"),
        lambda it: _post(it)["responses"].update({"409": {}}),
    ],
)
def test_what_an_address_takes_or_gives_beside_breaks_no_caller(change: Change) -> None:
    new = _api()
    change(new)
    assert list(addresses.broken(_api(), new)) == []


_SETTINGS: Any = {"orchestrator": {"SAGABOX_SECRETS": None, "SAGABOX_LEASE": "12.0"}}


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"SAGABOX_SECRETS": None}, "SAGABOX_LEASE is not known any more"),
        ({"SAGABOX_SECRETS": None, "SAGABOX_LEASE": None}, "SAGABOX_LEASE must be given now"),
        (
            {"SAGABOX_SECRETS": None, "SAGABOX_LEASE": "9.0"},
            "SAGABOX_LEASE: the default was 12.0, and is 9.0",
        ),
        (
            {"SAGABOX_SECRETS": None, "SAGABOX_LEASE": "12.0", "SAGABOX_NEW": None},
            "SAGABOX_NEW is new, and must be given",
        ),
    ],
)
def test_a_change_of_settings_that_breaks_a_deployment_is_found(now: Any, told: str) -> None:
    found = list(surroundings.broken_settings(_SETTINGS, {"orchestrator": now}))
    assert found == [f"orchestrator: {told}"]


def test_a_setting_that_is_added_or_may_be_left_out_breaks_no_deployment() -> None:
    now = {"SAGABOX_SECRETS": "''", "SAGABOX_LEASE": "12.0", "SAGABOX_NEW": "1"}
    assert list(surroundings.broken_settings(_SETTINGS, {"orchestrator": now})) == []


def _commands() -> Any:
    return {
        "sagabox show": {
            "options": {"--json": {"takes_value": False, "required": False}},
            "arguments": [{"name": "id", "required": False, "several": True}],
        }
    }


def _show(it: Any) -> Any:
    return it["sagabox show"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda it: it.clear(), "it is gone"),
        (lambda it: _show(it)["options"].clear(), "the option --json is gone"),
        (
            lambda it: _show(it)["options"]["--json"].update(takes_value=True),
            "the option --json takes a value now, or takes none any more",
        ),
        (
            lambda it: _show(it)["options"].update(
                {"--why": {"takes_value": True, "required": True}}
            ),
            "the option --why must be given now",
        ),
        (lambda it: _show(it)["arguments"].clear(), "the argument id is gone"),
        (
            lambda it: _show(it)["arguments"][0].update(several=False),
            "the argument id is one alone now",
        ),
        (
            lambda it: _show(it)["arguments"][0].update(required=True),
            "the argument id must be given now",
        ),
    ],
)
def test_a_change_of_commands_that_breaks_a_script_is_found(change: Change, told: str) -> None:
    new = _commands()
    change(new)
    assert list(surroundings.broken_commands(_commands(), new)) == [f"sagabox show: {told}"]


def test_a_command_or_an_option_that_is_added_breaks_no_script() -> None:
    new = copy.deepcopy(_commands())
    new["sagabox hide"] = _show(new)
    _show(new)["options"]["--more"] = {"takes_value": True, "required": False}
    assert list(surroundings.broken_commands(_commands(), new)) == []
