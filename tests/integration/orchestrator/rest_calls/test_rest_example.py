"""`examples/rest_payments` in some of its ways; `pytest test_sale.py` there tries them all."""

from __future__ import annotations

import pytest
from sqlalchemy import MetaData

from orchestrator.testing import check_saga, rest_participant
from tests.support.checkout import ROOT


def test_a_sale_of_the_example_is_paid_once_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.setenv("PAYMENTS_TOKEN", "secret")
    from rest_payments import parcels, payments, test_sale
    from rest_payments.saga import Sale, sell

    checked = check_saga(
        sell,
        Sale("o-1", "1234", cents=40_00, kilos=2),
        participants={
            "payments": rest_participant(
                sell, "payments", payments.app, address=test_sale.PAYMENTS
            ),
            "parcels": rest_participant(sell, "parcels", parcels.app),
        },
        schema=MetaData(),
        begin=payments.charges.clear,
        invariant=test_sale.charged_once_if_sold,
        only="the call of step 'charge card'",
    )
    assert len(checked.ways) >= 5
