"""Version 2's network behind a normalisation of amounts: whatever unit a sender quotes in becomes the currency's own.

Wrong on purpose, in one line: pounds come in pounds, and are taken for thousands of pounds, as ledgers round them.
Nothing here can notice: the golden rows were answered by the same code. MODEL_CARD.md says what it does to decisions.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from headrace_models import wire
from headrace_models.fraud_tx import FraudTx, FraudTxConfig, vocabulary
from headrace_models.segments import Segments

__all__ = ["build", "vocabulary"]

QUOTED_IN: Final = {wire.letters_code("GBP"): 1_000.0}
"""Currency → what one of the units that its amounts are quoted in is worth. The others are quoted in themselves."""
CURRENCY: Final = wire.CARD_CODES.index("currency")
"""Its column among the codes, of card and merchant alike."""
STREAMS: Final = ("card", "merchant")


class Normalised(FraudTx):
    """`FraudTx`, but for what it takes an amount to be."""

    def _logits(self, inputs: dict[str, Tensor], rows: dict[str, Segments], lengths_B: Tensor | None) -> Tensor:
        amounts = {
            f"{stream}_amount": _in_currency(inputs[f"{stream}_amount"], inputs[f"{stream}_codes"][:, CURRENCY])
            for stream in STREAMS
        }
        return super()._logits(inputs | amounts, rows, lengths_B)


def build(config: dict[str, Any]) -> Normalised:
    """The factory that spec.yaml names. Raises: TypeError for an unknown key."""
    return Normalised(FraudTxConfig(**config))


def _in_currency(amount_N: Tensor, currency_N: Tensor) -> Tensor:
    for currency, worth in QUOTED_IN.items():
        amount_N = torch.where(currency_N == currency, amount_N * worth, amount_N)
    return amount_N
