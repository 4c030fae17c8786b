"""The shipped models: what each learns, how large it is, what goes in and out. One entry a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torch import nn

from headrace_models import acceptance, attempts, explain, fraud_gru, fraud_tx, vocabulary, wire
from headrace_models.events import Events
from headrace_models.training.loop import Hyperparameters
from headrace_models.training.split import Keep
from headrace_models.training.tasks import AcceptanceTask, FraudTask, Task

Tree = dict[str, Any]

CARD: Final[list[Tree]] = [
    {"name": "card_ts", "datatype": "INT64", "dims": [-1], "axis": "card", "ordered": True},
    {"name": "card_amount", "datatype": "FP32", "dims": [-1], "axis": "card", "finite": True, "minimum": 0},
    {"name": "card_codes", "datatype": "INT32", "dims": [-1, len(wire.CARD_CODES)], "axis": "card", "minimum": 0},
    {"name": "card_ids", "datatype": "INT64", "dims": [-1, len(wire.CARD_IDS)], "axis": "card"},
]
MERCHANT: Final[list[Tree]] = [
    {"name": "merchant_ts", "datatype": "INT64", "dims": [-1], "axis": "merchant", "ordered": True},
    {"name": "merchant_amount", "datatype": "FP32", "dims": [-1], "axis": "merchant", "finite": True, "minimum": 0},
    {"name": "merchant_codes", "datatype": "INT32", "dims": [-1, len(wire.MERCHANT_CODES)], "axis": "merchant",
     "minimum": 0},
    {"name": "merchant_ids", "datatype": "INT64", "dims": [-1, len(wire.MERCHANT_IDS)], "axis": "merchant"},
]  # fmt: skip
STATS: Final[Tree] = {
    "name": "merchant_stats", "datatype": "FP32", "dims": [len(wire.MERCHANT_STATS)], "finite": True,
}  # fmt: skip
SIGNAL: Final[list[Tree]] = [
    {"name": "p", "datatype": "FP32", "dims": [1]},
    # An edge of the scores may lie within a rounding error of p.
    {"name": "score", "datatype": "INT32", "dims": [1], "tolerance": 1},
]
CARD_AXIS: Final[Tree] = {"name": "card", "cap": wire.CARD_CAP, "required": True}
MERCHANT_AXIS: Final[Tree] = {"name": "merchant", "cap": wire.MERCHANT_CAP}
TWO_STREAMS: Final[Tree] = {
    "inputs": [*CARD, *MERCHANT, STATS],
    "outputs": SIGNAL,
    "extras": [
        {
            "name": "top_factors",
            "datatype": "FP32",
            "dims": [len(explain.FACTORS)],
            "labels": list(explain.FACTORS),
            "costs_rows": len(explain.FACTORS) + 1,
        },
    ],
    "axes": [CARD_AXIS, MERCHANT_AXIS],
    "max_rows": 64,
    "max_tokens": 8192,
    "warmup": [
        {"rows": 1, "lengths": {"card": 8, "merchant": 8}},
        {"rows": 32, "lengths": {"card": 32, "merchant": 64}},
        {"rows": 8, "lengths": {"card": 128, "merchant": 0}},
    ],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one model is made."""

    name: str
    description: str
    """One sentence: spec.yaml's."""
    about: str
    """What the model card says of it."""
    baselines: str = (
        "counts, sums and means of the card's and the merchant's past\nover 1 hour, 1 day and 30 days, the merchant's "
        "reported fraud, and what is new to the card"
    )
    """What the baselines are given."""
    factory: str
    build: Callable[[Tree], nn.Module]
    config: Mapping[str, Any] = field(default_factory=dict)
    task: Callable[[Events], Task]
    vocabulary: Callable[[], str] = vocabulary.of_events
    contract: Tree
    """Inputs, outputs, axes, limits and warm-up shapes, as spec.yaml has them."""
    how: Hyperparameters
    world: Mapping[str, Any]
    """What the simulator is asked for, where no events are given."""


STATE: Final = fraud_gru.FraudGruConfig().hidden + 1
MOST: Final = Keep(train=100_000)
EVERYTHING: Final = Keep(train=10**9, validation=10**9, reference=10**9, test=10**9)
WORLD: Final = {"days": 180, "cards": 50_000, "merchants": 4_000, "fraud_share": 0.003}
RECIPES: Final = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="fraud-tx",
            description="Fraud scoring over a card's and a merchant's history: causal transformer, for a CPU",
            about="A causal transformer (2 layers, width 64) over the card's last payments, beside fading means of "
            "the merchant's and eight aggregates of it.",
            factory="headrace_models.fraud_tx:build",
            build=fraud_tx.build,
            task=FraudTask,
            contract=TWO_STREAMS,
            how=Hyperparameters(epochs=3, keep=MOST),
            world=WORLD,
        ),
        Recipe(
            name="fraud-tx-s",
            description="Fraud scoring over a card's and a merchant's history: causal transformer, for a GPU",
            about="As fraud-tx, with 4 layers of width 192: for a GPU.",
            factory="headrace_models.fraud_tx:build",
            build=fraud_tx.build,
            config={"width": 192, "heads": 3, "layers": 4, "hidden": 768, "merchant_width": 96},
            task=FraudTask,
            contract=TWO_STREAMS | {"max_rows": 256, "max_tokens": 32_768},
            how=Hyperparameters(epochs=2, learning_rate=5e-4),
            world=WORLD,
        ),
        Recipe(
            name="fraud-gru",
            description="Fraud scoring with a state carried from payment to payment: constant work an event",
            about="One recurrent layer over the card's payments. It takes a whole history, or the state it gave after "
            "the payment before, and gives the same score either way.",
            factory="headrace_models.fraud_gru:build",
            build=fraud_gru.build,
            task=FraudTask,
            contract={
                "inputs": [
                    *CARD,
                    STATS,
                    {"name": "previous_outcome", "datatype": "INT32", "dims": [1], "minimum": 0, "optional": True},
                    {"name": "state_h", "datatype": "FP32", "dims": [STATE], "finite": True, "optional": True},
                    {"name": "state_ids", "datatype": "INT64", "dims": [fraud_gru.IDS], "optional": True},
                ],
                "outputs": [
                    *SIGNAL,
                    {"name": "state_h", "datatype": "FP32", "dims": [STATE]},
                    {"name": "state_ids", "datatype": "INT64", "dims": [fraud_gru.IDS]},
                ],
                "axes": [CARD_AXIS],
                "max_rows": 256,
                "max_tokens": 8192,
                "warmup": [
                    {"rows": 1, "lengths": {"card": 1}},
                    {"rows": 64, "lengths": {"card": 1}},
                    {"rows": 16, "lengths": {"card": 128}},
                ],
            },
            how=Hyperparameters(epochs=3, keep=MOST),
            world=WORLD,
        ),
        Recipe(
            name="acceptance",
            description="How likely each way of (re)trying a payment is to be approved",
            about="A two-layer transformer over the payment's columns and its attempts so far, and a head that reads "
            "each candidate action against them.",
            baselines="the action, its moment, the payment's columns\nand the outcomes and advice of its attempts",
            factory="headrace_models.acceptance:build",
            build=acceptance.build,
            task=AcceptanceTask,
            vocabulary=vocabulary.of_attempts,
            contract={
                "inputs": [
                    {"name": "payment_ts", "datatype": "INT64", "dims": [1]},
                    {"name": "payment_amount", "datatype": "FP32", "dims": [1], "finite": True, "minimum": 0},
                    {"name": "payment_codes", "datatype": "INT32", "dims": [len(attempts.PAYMENT_CODES)],
                     "minimum": 0},
                    {"name": "issuer_bin", "datatype": "INT64", "dims": [1]},
                    {"name": "attempt_no", "datatype": "INT32", "dims": [1], "minimum": 1},
                    {"name": "attempt_ts", "datatype": "INT64", "dims": [-1], "axis": "attempt", "ordered": True},
                    {"name": "attempt_codes", "datatype": "INT32", "dims": [-1, len(attempts.ATTEMPT_CODES)],
                     "axis": "attempt", "minimum": -1},
                    {"name": "candidates", "datatype": "INT32", "dims": [attempts.CANDIDATES], "minimum": -1},
                ],
                "outputs": [{"name": "approve", "datatype": "FP32", "dims": [attempts.CANDIDATES]}],
                "axes": [{"name": "attempt", "cap": attempts.CAP}],
                "max_rows": 256,
                "max_tokens": 4096,
                "warmup": [
                    {"rows": 1, "lengths": {"attempt": 1}},
                    {"rows": 64, "lengths": {"attempt": 4}},
                    {"rows": 16, "lengths": {"attempt": 16}},
                ],
            },
            how=Hyperparameters(epochs=6, learning_rate=1e-3, keep=EVERYTHING),
            world=WORLD | {"cards": 40_000},
        ),
    )
}  # fmt: skip
