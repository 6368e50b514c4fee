"""Every way that a sale can go: `pytest test_sale.py`."""

import os
from unittest.mock import patch

from sqlalchemy import MetaData

from orchestrator.testing import Run, SagaWorld, check_saga, rest_participant
from rest_payments import parcels, payments
from rest_payments.saga import Sale, sell

PAYMENTS = "rest+http://payments.test/v1"


def charged_once_if_sold(_: SagaWorld, run: Run) -> None:
    assert len(payments.charges) == (1 if run.status == "COMPLETED" else 0)


@patch.dict(os.environ, PAYMENTS_TOKEN="secret")
def test_a_sale_is_paid_once_or_not_at_all() -> None:
    check_saga(
        sell,
        Sale("o-1", "1234", cents=40_00, kilos=2),
        participants={
            "payments": rest_participant(sell, "payments", payments.app, address=PAYMENTS),
            "parcels": rest_participant(sell, "parcels", parcels.app),
        },
        schema=MetaData(),
        begin=payments.charges.clear,
        invariant=charged_once_if_sold,
    )
