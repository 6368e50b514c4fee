"""`examples/travel` without a database, a network or a clock: its saga, and how little of the
library a service has to know."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from orchestrator.testing import Faults, View, explore
from tests.support.checkout import ROOT

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples")
    from travel.contract import RoomReserved, SeatReserved
    from travel.saga import Journey, book_trip

ROME = Journey("Rome", room="double", flight="SB7", card="1234")
PRICES: dict[str, list[object]] = {
    "reserve room": [RoomReserved(90_00)],
    "reserve seat": [SeatReserved(120_00)],
}
FOLDER = ROOT / "examples" / "travel"

# The saga


def the_card_is_charged_for_a_promised_room_alone(view: View) -> bool | str:
    if view.ended and "charge card" in view.in_effect and "confirm room" not in view.in_effect:
        return "a card is charged for a trip without a room"
    return True


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(Faults(crashes=1, burials=1), id="a crash and a burial"),
        pytest.param(Faults(duplicates=1, late=1), id="a duplicate and a late answer"),
        pytest.param(Faults(losses=1, refusals=1), id="a loss and a refusal"),
        pytest.param(Faults(cancels=1, locks=1), id="a cancellation and a lock"),
    ],
)
def test_a_trip_keeps_every_promise(faults: Faults) -> None:
    explore(
        book_trip,
        ROME,
        replies=PRICES,
        faults=faults,
        invariants=[the_card_is_charged_for_a_promised_room_alone],
    ).check()


def test_room_and_seat_are_reserved_side_by_side_and_both_are_paid() -> None:
    steps = {it.name: it for it in book_trip.steps}
    assert steps["reserve room"].after == steps["reserve seat"].after == ()
    known = ROME.note_room(RoomReserved(90_00)).note_seat(SeatReserved(120_00))
    assert known.charge().amount == 210_00


# The plumbing

MOST_LINES = 10
MOST_NAMES = 8

_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


@pytest.mark.parametrize("service", ["hotel", "flight", "payment"])
def test_a_service_adopts_the_library_in_a_few_lines_with_a_few_names(service: str) -> None:
    """Counted is all that the service's package names of the library, its migrations too, outside
    of its handlers and routes, which are its business (see `plumbing`). What is no code is not
    counted: the settings, and the contract, which is the business of all."""
    files = sorted((FOLDER / service).rglob("*.py"))
    found = [plumbing(file.read_text()) for file in files]
    lines = [line for its_lines, _ in found for line in its_lines]
    names = {name for _, its_names in found for name in its_names}
    assert {"outbox.Service", "service.attach", "outbox.schema.upgrade"} <= names
    assert {"service.on", "service.outside"} & names
    assert len(lines) <= MOST_LINES, lines
    assert len(names) <= MOST_NAMES, names


def test_what_is_no_handler_and_no_route_counts_as_plumbing() -> None:
    lines, names = plumbing(
        """
import outbox
from outbox import schema
from travel.contract import Charge

service = outbox.Service(
    "payment", engine
)

@service.on(Charge)
async def charge(session, command, _: outbox.Context):
    outbox.add(session, PaymentCharged())

async def note(session, command, reply, _: outbox.Context):
    outbox.add(session, PaymentCharged())

@service.outside(Refund, after=note)
async def refund(command, context: outbox.Context):
    return outbox.Pending()

@app.get("/")
def get():
    service.start()

def upgrade():
    schema.upgrade(op, to=5)
"""
    )
    assert lines == [
        "import outbox",
        "from outbox import schema",
        "service = outbox.Service(",
        '    "payment", engine',
        ")",
        "    schema.upgrade(op, to=5)",
    ]
    assert names == {
        "outbox.Service",
        "outbox.schema.upgrade",
        "service.on",
        "service.outside",
    }


def plumbing(source: str) -> tuple[list[str], set[str]]:
    """The lines of a module that name the library, or the service's object, outside of functions
    that are decorated by `service` or `app`, or given a `session`; and the names in them, each with
    its path (of `outbox.schema` and `outbox.schema.upgrade` the longer one alone), with
    `service.on` and `service.outside` where those are used.

    Of a statement that goes over several lines each counts.
    """
    tree = ast.parse(source)
    bound = dict(_bound(tree))
    numbers: set[int] = set()
    names = {path for path in bound.values() if "." in path}
    for node, statement in _outside_of_business(tree, tree.body[0]):
        if isinstance(node, ast.Attribute | ast.Name) and (path := _path(node, bound)):
            names.add(path)
        elif not (isinstance(node, ast.Import | ast.ImportFrom) and dict(_bound(node))):
            continue
        numbers.update(range(statement.lineno, (statement.end_lineno or 0) + 1))
    decorators = {ast.unparse(it) for node in ast.walk(tree) for it in _decorators(node)}
    names |= decorators & {"service.on", "service.outside"}
    longest = {it for it in names if not any(other.startswith(f"{it}.") for other in names)}
    every_line = source.splitlines()
    return [every_line[number - 1] for number in sorted(numbers)], longest - {"service"}


def _bound(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """What a name stands for, where it stands for something of the library."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=imported):
                yield from ((it.name, it.name) for it in imported if it.name == "outbox")
            case ast.ImportFrom(module=str(module), names=imported):
                for it in imported:
                    if module.split(".")[0] == "outbox":
                        yield it.name, f"{module}.{it.name}"
                    elif it.name == "service":
                        yield it.name, it.name
            case ast.Assign(targets=[ast.Name(id="service")]):
                yield "service", "service"
            case _:
                pass


def _outside_of_business(node: ast.AST, statement: ast.stmt) -> Iterator[tuple[ast.AST, ast.stmt]]:
    """Each node with the statement in which it stands."""
    for child in ast.iter_child_nodes(node):
        if {ast.unparse(it).split(".")[0] for it in _decorators(child)} & {"service", "app"}:
            continue
        if isinstance(child, _FUNCTION) and "session" in {it.arg for it in child.args.args}:
            continue
        its = child if isinstance(child, ast.stmt) else statement
        yield child, its
        yield from _outside_of_business(child, its)


def _decorators(node: ast.AST) -> list[ast.expr]:
    if not isinstance(node, _FUNCTION):
        return []
    return [it.func if isinstance(it, ast.Call) else it for it in node.decorator_list]


def _path(node: ast.expr, bound: dict[str, str]) -> str | None:
    first, _, rest = ast.unparse(node).partition(".")
    return None if first not in bound else ".".join(filter(None, [bound[first], rest]))
