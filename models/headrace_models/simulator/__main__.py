"""`python -m headrace_models.simulator --out DIR`: a world as files: events.csv, and truth.npz beside it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from headrace_models import simulator
from headrace_models.simulator.files import write_csv, write_truth


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="headrace_models.simulator", description="Write a world of card payments.")
    parser.add_argument("--out", type=Path, required=True, help="a directory")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--days", type=int, default=120)
    parser.add_argument("--cards", type=int, default=12_000)
    parser.add_argument("--merchants", type=int, default=1_500)
    parser.add_argument("--fraud-share", type=float, default=0.002, help="of all payments, up to 0.01")
    parser.add_argument("--drift-weeks", type=int, default=0, help="attackers move on every so many weeks; 0: never")
    parser.add_argument("--faults", action="store_true", help="deliver some events twice, late or out of order")
    options = parser.parse_args(arguments)
    world = {k: getattr(options, k) for k in ("days", "cards", "merchants", "fraud_share", "drift_weeks")}
    try:
        events, truth = simulator.with_truth(options.seed, **world)
    except ValueError as error:
        parser.error(str(error))
    options.out.mkdir(parents=True, exist_ok=True)
    order = simulator.deliver(events, options.seed) if options.faults else None
    write_csv(options.out / "events.csv", events, order)
    write_truth(options.out / "truth.npz", truth)
    print(f"{options.out}: {len(events):,} events, {(truth.scenario > 0).mean():.2%} of them fraud")
    return 0


if __name__ == "__main__":
    sys.exit(main())
