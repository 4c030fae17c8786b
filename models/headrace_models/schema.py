"""What `spec.yaml` may say: its words, their types, and the reading of a YAML tree into them.

Says where a tree is wrong, and never guesses: no string becomes a number. Whether what it says can be true is
`consistency.py`'s business. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints

from headrace_models.strings import LENGTH_BYTES

DATATYPES: Final[dict[str, str]] = {
    "BOOL": "?",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BF16": "<u2",
    "BYTES": "|u1",
}
"""Datatypes a model may declare → numpy's name, little-endian. Of BF16 the bits, of BYTES the bytes (`strings.py`)."""
STRINGS: Final = "BYTES"


class SpecError(ValueError):
    """What is wrong with a model directory, in one sentence that names the file and the field."""


def one_line(error: BaseException) -> str:
    """A foreign error inside a sentence of ours."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of one row: no batch dimension; -1 first where it is ragged."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    axis: str | None = None
    finite: bool = False
    minimum: int | None = None
    ordered: bool = False
    optional: bool = False
    """An input a caller may leave out: it is zeros then."""
    labels: tuple[str, ...] = ()
    """Of an output or an extra: what its entries are called."""
    costs_rows: int = 0
    """Of an extra: as many rows as computing it for one costs."""
    tolerance: float | None = None
    """How far an output may be from what it should be. None = exact for integers, a rounding error for floats."""
    max_bytes: int = 0
    """Of BYTES: the longest string."""

    @property
    def array_dims(self) -> tuple[int, ...]:
        """Dims of a row's array: those of the tensor, and of strings one more, their bytes."""
        return (*self.dims, LENGTH_BYTES + self.max_bytes) if self.datatype == STRINGS else self.dims


@dataclass(frozen=True, slots=True)
class Axis:
    """A ragged axis that several inputs share."""

    name: str
    cap: int
    required: bool = False


@dataclass(frozen=True, slots=True)
class WarmUp:
    """One batch shape that runs before the model is ready."""

    rows: int
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Axis → length of each row; 1 where it is not named."""

    def length(self, axis: Axis) -> int:
        return self.lengths.get(axis.name, 1)


@dataclass(frozen=True, slots=True)
class Signal:
    """What the outputs `p` and `score` say about a payment: a model that has one is asked through RiskService too."""

    name: str
    calibration_version: str = ""
    """Of the map from raw output to `p` and `score`; thresholds of callers hang on it."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything `spec.yaml` says."""

    name: str
    version: int
    factory: str
    """`package.module:function`, or `model.py:function` for a file beside the spec."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: str
    digest: str
    """`sha256:` and the hex digest of the weights file."""
    golden: str
    axes: tuple[Axis, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    max_rows: int = 64
    max_tokens: int = 8192
    warmup: tuple[WarmUp, ...] = (WarmUp(1),)
    description: str = ""
    vocabulary: str = ""
    """Digest of what the model's codes mean. Empty = nothing to compare with the code's."""
    signal: Signal | None = None
    extras: tuple[TensorSpec, ...] = ()
    """Outputs for the rows that ask for them: `extras(inputs, lengths)` of the module."""

    @property
    def extras_rows(self) -> int:
        """As many rows as one that asks for extras costs on top of itself: all of them are computed at once."""
        return sum(tensor.costs_rows for tensor in self.extras)


def parse(tree: Any) -> ModelSpec:
    """Raises: SpecError that begins with the field's path."""
    spec: ModelSpec = _read(ModelSpec, tree, "")
    return spec


WORDS: Final[dict[Any, str]] = {
    str: "a string",
    int: "an integer",
    bool: "true or false",
    float: "a number",
    list: "a list",
    dict: "a mapping",
}


def _read(kind: Any, tree: Any, where: str) -> Any:
    if is_dataclass(kind):
        made: Any = kind
        return made(**_arguments(kind, tree, where))
    origin, of = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if tree is None else _read(of[0], tree, where)
    if origin is tuple:
        return tuple(_read(of[0], item, _below(where, i)) for i, item in enumerate(_expect(list, tree, where)))
    if origin is Mapping:
        return {
            _expect(str, key, where): _read(of[1], value, _below(where, key))
            for key, value in _expect(dict, tree, where).items()
        }
    return tree if kind is Any else _expect(kind, tree, where)


def _expect(kind: type, tree: Any, where: str) -> Any:
    """`tree`, when it is one: YAML's `true` is no integer, and an integer is a number."""
    if type(tree) is kind or (kind is float and type(tree) is int):
        return tree
    raise SpecError(f"{where or 'the file'}: expected {WORDS[kind]}, got {_shown(tree)}")


def _arguments(kind: Any, tree: Any, where: str) -> dict[str, Any]:
    """The mapping as arguments of a dataclass; every key known, every needed key there."""
    values, hints = _expect(dict, tree, where), get_type_hints(kind)
    prefix = f"{where}: " if where else ""
    if unknown := [key for key in values if key not in hints]:
        raise SpecError(f"{prefix}unknown key '{unknown[0]}'")
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in values]:
        raise SpecError(f"{prefix}'{missing[0]}' is missing")
    return {name: _read(hints[name], value, _below(where, name)) for name, value in values.items()}


def _below(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _shown(tree: Any) -> str:
    """The value where it is short, its kind where it may fill a page."""
    kinds = {dict: "a mapping", list: "a list", type(None): "nothing"}
    return kinds.get(type(tree)) or " ".join(repr(tree).split())[:60]
