"""The payment of `helm test` is one that fraud-tx takes: its columns are the model's inputs."""

from __future__ import annotations

import json

from tests.helm.chart import CHART

from headrace_models import wire
from headrace_models.spec import load_spec
from headrace_models.training.evaluate import REPOSITORY


def test_it_becomes_every_input_that_fraud_tx_must_have() -> None:
    (line,) = (CHART / "files" / "payment.jsonl").read_text().splitlines()
    columns = wire.payment_columns(**json.loads(line))

    assert set(columns) == {tensor.name for tensor in load_spec(REPOSITORY / "fraud-tx" / "1").inputs}
