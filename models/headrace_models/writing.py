"""Writes a version's directory from a module and rows to ask it: weights, golden rows, `spec.yaml`; then reads it back.

For whoever adds a model. What it writes is what `spec.py` reads, so that nothing can be written that can't be served.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import yaml

from headrace_models import spec

if TYPE_CHECKING:
    import torch

Arrays = Mapping[str, npt.NDArray[Any]]

WEIGHTS: Final = "weights.safetensors"
GOLDEN: Final = "golden.npz"


class _Plain(yaml.SafeDumper):
    """Writes out what is shared in memory, instead of anchors that refer to it."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  the base class's name
        return True


def write(
    directory: Path, module: torch.nn.Module, described: Mapping[str, Any], inputs: Arrays, lengths: Arrays
) -> spec.ModelSpec:
    """Write `<model>/<version>`: its golden rows are these, with the answers that the module gives now.

    `described` is `spec.yaml` without name and version, which the directory says, and without the files and the
    digest, which follow. A `model.py` must lie there already. Raises: spec.SpecError when it could not be served.
    """
    from safetensors.torch import save  # noqa: PLC0415  reading a spec must not need torch

    directory.mkdir(parents=True, exist_ok=True)
    (directory / WEIGHTS).write_bytes(save(module.state_dict()))  # not save_file: nobody else could read its file
    _write_golden(directory / GOLDEN, module.eval(), inputs, lengths, _datatypes(described))
    tree = {
        "name": directory.absolute().parent.name,
        "version": int(directory.absolute().name),
        **described,
        "weights": WEIGHTS,
        "digest": spec.digest(directory / WEIGHTS),
        "golden": GOLDEN,
    }
    (directory / "spec.yaml").write_text(
        yaml.dump(tree, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8"
    )
    written = spec.load_spec(directory)
    spec.verify_golden(spec.load_module(written, directory), written, directory)
    return written


def _datatypes(described: Mapping[str, Any]) -> dict[str, str]:
    """By name, as far as it is described at all: what is wrong with that is told when it is read back."""
    tensors = [t for kind in ("inputs", "outputs") for t in described.get(kind) or () if isinstance(t, Mapping)]
    return {str(tensor.get("name")): str(tensor.get("datatype")) for tensor in tensors}


def _write_golden(
    path: Path, module: torch.nn.Module, inputs: Arrays, lengths: Arrays, datatypes: Mapping[str, str]
) -> None:
    import torch  # noqa: PLC0415  as above

    from headrace_models.tensors import to_array, to_tensor  # noqa: PLC0415  as above

    with torch.inference_mode():
        outputs = module(
            {name: to_tensor(values.copy(), datatypes.get(name, "")) for name, values in inputs.items()},
            {name: torch.from_numpy(values.copy()) for name, values in lengths.items()},
        )
    answers = {name: to_array(found, datatypes.get(name, "")) for name, found in outputs.items()}
    groups = {"input": inputs, "lengths": lengths, "output": answers}
    arrays: dict[str, Any] = {
        f"{kind}.{name}": values for kind, group in groups.items() for name, values in group.items()
    }
    np.savez_compressed(path, **arrays)
