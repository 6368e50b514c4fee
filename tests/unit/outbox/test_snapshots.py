from __future__ import annotations

import pytest

from orchestrator.testing.worlds.snapshot import (
    Difference,
    Ignored,
    Rows,
    Snapshot,
    differences,
    varying,
)


def shop(*rows: tuple[str, int], key: tuple[str, ...] = ("name",)) -> Snapshot:
    return {"stock": {"items": Rows(("name", "free"), key, rows)}}


def told(before: Snapshot, after: Snapshot, *ignored: str) -> list[str]:
    return [str(it) for it in differences(before, after, Ignored(ignored))]


def test_a_changed_value_is_told_with_table_row_and_column() -> None:
    assert told(shop(("lamp", 2), ("desk", 1)), shop(("lamp", 1), ("desk", 1))) == [
        "stock: table items, row name='lamp': free was 2, is 1"
    ]


def test_a_row_that_came_or_went_is_told() -> None:
    assert told(shop(("lamp", 2)), shop(("desk", 2))) == [
        "stock: table items, row name='desk': was not there, is there",
        "stock: table items, row name='lamp': was there, is not there",
    ]


def test_the_order_of_rows_is_no_difference() -> None:
    assert told(shop(("a", 1), ("b", 2)), shop(("b", 2), ("a", 1))) == []


@pytest.mark.parametrize("name", ["free", "items.free", "items"])
def test_what_is_ignored_is_no_difference(name: str) -> None:
    assert told(shop(("lamp", 2)), shop(("lamp", 1)), name) == []


def test_rows_whose_key_is_ignored_are_counted() -> None:
    before, after = shop(("a", 1), ("b", 1)), shop(("c", 1))
    assert told(before, after, "name") == [
        "stock: table items, row free=1: was there 2 times, is 1 times"
    ]
    assert told(before, shop(("x", 1), ("y", 1)), "name") == []


def test_rows_without_a_key_are_counted() -> None:
    before = shop(("a", 1), ("a", 1), key=())
    assert told(before, shop(("a", 1), key=())) == [
        "stock: table items, row name='a', free=1: was there 2 times, is 1 times"
    ]


@pytest.mark.parametrize("name", ["fre", "items.fre", "stock"])
def test_a_misspelt_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"ignore= names '{name}', and no table or column"):
        Ignored([name]).check(shop())


def test_columns_of_differences_can_be_ignored_from_then_on() -> None:
    found = [Difference("stock", "items", "name='lamp'", "free", "2", "1")]
    assert Ignored().also(found).column("items", "free")
    assert not Ignored().also(found).column("other", "free")


def test_keys_that_are_made_anew_vary_and_so_do_the_columns_that_name_them() -> None:
    def pages(id: int, letter: int) -> Snapshot:
        return {"desk": {"pages": Rows(("id", "letter", "text"), ("id",), ((id, letter, "dear"),))}}

    found = Ignored().also(varying(pages(1, 7), pages(2, 8), Ignored()))
    assert [it for it in ("id", "letter", "text") if found.column("pages", it)] == ["id", "letter"]
    assert differences(pages(1, 7), pages(3, 9), found) == []
