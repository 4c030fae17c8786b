"""What a model's numbers mean, as one digest: weights are only worth something beside the codes they were trained on.

Training writes it into spec.yaml; loading compares it with the code's. Everything is in it whose change would leave
the shapes as they are and make the answers wrong: names and their order, table sizes, buckets, windows.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from headrace_models import attempts, features, wire
from headrace_models.layers import embedding

ID_PROBE: Final = "headrace"
LETTERS_PROBE: Final = "EUR"
"""How ids and letters become numbers is code, not a table: what becomes of one of each stands for it."""


def of_events() -> str:
    """Of the fraud models: `sha256:` and the hex digest. A spec's `factory` module has it as `vocabulary`."""
    return _digest(_meanings())


def of_attempts() -> str:
    """Likewise of acceptance."""
    more = {
        "actions": (wire.ACTIONS, wire.DELAY_H),
        "advice": wire.ADVICE,
        "payment_codes": (attempts.PAYMENT_CODES, attempts.PAYMENT_TABLES),
        "attempt_codes": (attempts.ATTEMPT_CODES, attempts.ATTEMPT_TABLES),
    }
    return _digest(_meanings() | more)


def _meanings() -> dict[str, Any]:
    return {
        "channels": wire.CHANNELS,
        "outcomes": wire.OUTCOMES,
        "labels": (wire.LABEL_UNKNOWN, wire.LABEL_LEGITIMATE, wire.LABEL_FRAUD),
        "card_codes": wire.CARD_CODES,
        "merchant_codes": wire.MERCHANT_CODES,
        "card_ids": wire.CARD_IDS,
        "merchant_ids": wire.MERCHANT_IDS,
        "merchant_stats": wire.MERCHANT_STATS,
        "stats": (wire.REPORTS_US, wire.SMALL_AMOUNT),
        "probes": (wire.hash_id(ID_PROBE), wire.letters_code(LETTERS_PROBE)),
        "code_tables": embedding.CODE_TABLES,
        "id_buckets": features.ID_BUCKETS,
        "numerics": features.NUMERICS,
    }


def _digest(meanings: dict[str, Any]) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(meanings, sort_keys=True).encode()).hexdigest()}"
