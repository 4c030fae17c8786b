"""`python -m headrace_models.evaluate [DIRECTORY]`: the figures of the shipped model card, measured again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

import torch

from headrace_models import simulator, spec, train
from headrace_models.fraud_tx import FraudTx
from headrace_models.history import Timeline

SHIPPED = Path(__file__).resolve().parents[1] / "repository" / "fraud-tx" / "1"


def card_figures(directory: Path) -> dict[str, float]:
    """The table of a model card, as numbers."""
    lines = (directory / "MODEL_CARD.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {name: float(value.replace(",", "")) for name, value in cells if name}


def measure(directory: Path) -> dict[str, float]:
    """The same figures from the weights: the same simulated days, the same held-back block."""
    found = spec.load_spec(directory)
    model = cast("FraudTx", spec.load_module(found, directory))
    events = simulator.simulate(train.SEED, fraud_share=train.FRAUD_SHARE)
    return train.evaluate(model, Timeline(events), train.split_by_time(events, train.SEED).test)


def main() -> int:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED
    torch.set_num_threads(1)
    written, measured = card_figures(directory), measure(directory)
    for name, value in measured.items():
        print(f"{name:40} {value:12.4f}   card {written[name]:12.4f}")
    return int(any(abs(measured[name] - written[name]) > 1e-3 for name in measured))


if __name__ == "__main__":
    sys.exit(main())
