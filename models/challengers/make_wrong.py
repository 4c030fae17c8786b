"""`python models/challengers/make_wrong.py` writes version 3 again: the weights and the questions of version 2.

Its code lies there already (`fraud-tx/3/model.py`); its card is written by hand.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import yaml

from headrace_models import spec, writing

FRAUD_TX = Path(__file__).parent / "fraud-tx"
REFRESHED, WRONG = FRAUD_TX / "2", FRAUD_TX / "3"
FOLLOWS = ("name", "version", "weights", "digest", "golden")
"""What `writing` says by itself."""
CHANGED = {
    "description": "As version 2, with amounts in pounds taken for thousands of pounds: wrong on purpose",
    "factory": "model.py:build",
}


def main() -> None:
    """Raises: spec.SpecError when what was written could not be served."""
    found = spec.load_spec(REFRESHED)
    module = runpy.run_path(str(WRONG / "model.py"))["build"](dict(found.config))
    module.load_state_dict(spec.load_module(found, REFRESHED).state_dict())
    tree = yaml.safe_load((REFRESHED / "spec.yaml").read_text(encoding="utf-8"))
    described = {key: value for key, value in tree.items() if key not in FOLLOWS} | CHANGED
    inputs, lengths, _ = spec.golden(found, REFRESHED)
    writing.write(WRONG, module, described, inputs, lengths)


if __name__ == "__main__":
    main()
