"""What services declare of their data: what fits together, and what the documentation shows."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import articles.invariants
import comments.invariants
import outbox.invariants
from orchestrator.cli.audit.rules import together
from orchestrator.cli.terminal.errors import CommandError
from outbox.chassis.settings import InvalidSettings
from outbox.errors import InvalidInvariant
from outbox.invariants import Holds, Invariants, Keeps, Mirrors, Refers, Repair, Wrong
from tests.support.checkout import ROOT
from tests.support.outbox.parcels import DEPOT, SHOP, Order, Parcel
from tests.support.repository.manual import blocks


def _wrong(code: str = "x") -> Wrong:
    return Wrong(code, "something should be")


def test_declarations_that_cannot_be_meant_so_are_refused_where_they_are_made() -> None:
    with pytest.raises(InvalidInvariant, match="no code of a divergence"):
        _wrong("Not A Word")
    with pytest.raises(InvalidInvariant, match="without the other"):
        Mirrors("order", id=Parcel.order, missing=_wrong(), version=Parcel.order)
    with pytest.raises(InvalidInvariant, match="without the other"):
        Mirrors("order", id=Parcel.order, missing=_wrong(), unfit=_wrong())


@pytest.mark.parametrize(
    "declared",
    [
        [SHOP, DEPOT, Invariants("other", keeps=[Keeps("order", id=Parcel.order)])],
        [SHOP, Invariants("depot", rules=[Refers("order", id=1, wrong=_wrong())])],  # type: ignore[arg-type] # that is the mistake
        [Invariants("shop", keeps=[Keeps("order", id=Order)]), DEPOT],  # type: ignore[arg-type] # that is the mistake
    ],
    ids=["two keepers", "no column", "a whole table"],
)
def test_declarations_that_do_not_fit_together_are_refused(declared: list[Invariants]) -> None:
    with pytest.raises((CommandError, InvalidSettings), match=r"both keep|no column of a table"):
        together(declared)


class _Base(DeclarativeBase):
    pass


class _Order(_Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)


class _Shipment(_Base):
    __tablename__ = "shipments"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]
    saga_id: Mapped[str | None]
    reserved_by: Mapped[str | None]


def test_the_declaration_on_the_page_can_be_made_and_tells_all_that_there_is() -> None:
    _, snippet = blocks("docs/operate/operating.md", "python")
    names: dict[str, Any] = {**vars(outbox.invariants), "Shipment": _Shipment}
    exec(snippet, names)  # what the page shows is to be run
    rules = together([names["INVARIANTS"], Invariants("o", keeps=[Keeps("order", id=_Order.id)])])
    assert [it.wrong.code for it in (one.rule for one in rules.subjects[0].rules)] == [  # type: ignore[union-attr] # it shows no mirror
        "shipment-of-no-order",
        "reserved-shipment",
    ]
    page = (ROOT / "docs/operate/operating.md").read_text()
    for declared in (Keeps, Refers, Mirrors, Holds, Wrong, Repair):
        (told,) = re.findall(rf"^\| `{declared.__name__}\((.*?)\)` \|", page, re.M)
        names_told = {it.strip(" =") for it in told.split(",")}
        assert names_told == {it.name for it in fields(declared) if it.name != "_"}, declared


def test_the_page_tells_each_divergence_of_the_blog_with_its_repair() -> None:
    page = (ROOT / "docs/operate/operating.md").read_text()
    table = page.partition("<!-- divergences -->")[2].partition("<!-- end of divergences -->")[0]
    told = {
        code: re.findall(r"`([\w-]+)`", line.split("|")[3])[:1]
        for line in table.splitlines()[3:]
        for code in re.findall(r"`([\w-]+)`", line.split("|")[1])
    }
    repairs = {
        it.code: [it.repair.saga] if it.repair else []
        for invariants in (articles.invariants.INVARIANTS, comments.invariants.INVARIANTS)
        for rule in invariants.rules
        for it in vars(rule).values()
        if isinstance(it, Wrong)
    }
    told["comments-without-thread"] = []  # its line names the one that comes with it
    assert told == repairs
