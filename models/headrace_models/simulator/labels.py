"""How fraud becomes known: late, by warning or by dispute, and not always.

An early warning comes after 10 days on average for six frauds in ten; the others wait for the cardholder's dispute,
log-normal with a median of 30 days and a tail beyond 60. A payment that nobody disputes counts as legitimate
after 60 days. What an issuer refused as suspected fraud never happened, so nobody learns what it was: censored. A few
labels are wrong, in both directions: half a per cent of the frauds each.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from headrace_models import wire

WARNED: Final = 0.6
WARNING_DAYS: Final = 10.0
DISPUTE_DAYS: Final = 30.0
DISPUTE_SPREAD: Final = 0.5
MATURE_DAYS: Final = 60.0
NOISE: Final = 0.005
CENSORED: Final = wire.OUTCOMES.index("suspected_fraud")


def label(
    rng: np.random.Generator, fraud: npt.NDArray[np.bool_], outcome: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    """(label, days until it is known) of each event."""
    n = len(fraud)
    seen = fraud.copy()
    wrong = max(0, round(NOISE * fraud.sum()))
    for truth in (True, False):
        these = np.flatnonzero(fraud == truth)
        flipped = rng.choice(these, min(wrong, len(these)), replace=False)
        seen[flipped] = not truth
    warned = rng.random(n) < WARNED
    dispute = rng.lognormal(np.log(DISPUTE_DAYS), DISPUTE_SPREAD, n)
    days = np.where(seen, np.where(warned, rng.exponential(WARNING_DAYS, n), dispute), MATURE_DAYS)
    labels = np.where(seen, wire.LABEL_FRAUD, wire.LABEL_LEGITIMATE)
    return np.where(outcome == CENSORED, wire.LABEL_UNKNOWN, labels).astype(np.int8), days
