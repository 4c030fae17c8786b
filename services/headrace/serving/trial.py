"""A loaded module on trial: batches for it that a gateway could make, and what it makes of them.

Through the runner that serves. The laws are in `laws.py`; nothing here judges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np
import torch

from headrace.errors import BrokenContract
from headrace.serving import rows as made
from headrace.serving.runner import Columns, Runner, Unpacked, take
from headrace_models import agreement
from headrace_models import spec as disk
from headrace_models.agreement import Distance
from headrace_models.consistency import row_tokens


class LawBroken(Exception):
    """Which output, row or axis breaks it, in one sentence."""


class Trial:
    """A module on its device, with golden rows to make batches of."""

    def __init__(self, module: torch.nn.Module, spec: disk.ModelSpec, device: str, golden: Unpacked) -> None:
        self.module = module
        self.spec = spec
        self.runner = Runner(module, spec, device)
        self.golden = golden

    def answer(self, batch: Unpacked) -> Columns:
        """What the runner gets for this batch. Raises: LawBroken when that is not what the spec declares."""
        try:
            # A copy: a module that writes to its inputs must not spoil the next batch.
            outputs = self.runner.forward(made.joined([batch]))
        except BrokenContract as error:
            raise LawBroken(str(error)) from error
        except Exception as error:  # a module is foreign code
            raise LawBroken(f"the module raised {disk.one_line(error)} on {described(batch)}") from error
        if complaint := disk.misshapen(self.runner.answered(batch), outputs, batch.rows):
            raise LawBroken(complaint)
        return outputs

    def rows(self, *which: int) -> Unpacked:
        """Golden rows, in this order."""
        return take(self.golden, np.array(which, np.int64), self.spec)

    def stretched(self, lengths: Mapping[str, int], rows: int = 1) -> Unpacked:
        return made.stretched(self.golden, self.spec, lengths, rows)

    @cached_property
    def alone(self) -> Columns:
        """The answer of each golden row without company: what every other answer is measured against."""
        each = [self.answer(self.rows(row)) for row in range(self.golden.rows)]
        return {name: np.concatenate([answer[name] for answer in each]) for name in each[0]}

    @cached_property
    def extras_alone(self) -> Columns:
        """The extras of each golden row that asks for them without company."""
        each = [self.answer(made.asking(self.rows(row), [0])) for row in range(self.golden.rows)]
        return {t.name: np.concatenate([answer[t.name] for answer in each]) for t in self.spec.extras}

    def distance(self, batch: Unpacked, rows: list[int]) -> Distance:
        """How far the first answers of the batch are from those of these golden rows alone."""
        found = {name: values[: len(rows)] for name, values in self.answer(batch).items()}
        return self.between(found, {name: values[rows] for name, values in self.alone.items()})

    def between(self, found: Columns, expected: Columns) -> Distance:
        return agreement.furthest(self.spec.outputs, found, expected, self.runner.device)

    def between_extras(self, found: Columns, expected: Columns) -> Distance:
        return agreement.furthest(self.spec.extras, found, expected, self.runner.device)

    def company(self, row: int) -> Iterator[tuple[str, Unpacked]]:
        """A golden row beside the longest and beside the shortest row that it may meet."""
        own = self.rows(row)
        longest = made.lengths_within(self.spec, self.spec.max_tokens - made.tokens(own))
        shortest = {axis.name: int(axis.required) for axis in self.spec.axes}
        for name, lengths in (("longest", longest), ("shortest", shortest)):
            batch = made.joined([own, self.stretched(lengths)])
            if made.fits(batch, self.spec):
                yield name, batch

    def gatherings(self) -> Iterator[tuple[str, list[int], Unpacked]]:
        """Golden rows in several orders, as many as the limits allow; in the last beside the longest there may be."""
        order = list(range(self.golden.rows))
        longest = self.stretched(made.lengths_within(self.spec, self.spec.max_tokens))
        yield "together", order, self.golden
        yield "reversed", order[::-1], self.rows(*order[::-1])
        if repeated := self._as_many_as_fit(order + order[::-1], []):
            yield "repeated", repeated, self.rows(*repeated)
        if beside := self._as_many_as_fit(order, [longest]):
            yield "beside the longest row", beside, made.joined([self.rows(*beside), longest])

    def _as_many_as_fit(self, order: list[int], mates: list[Unpacked]) -> list[int]:
        while order and not made.fits(made.joined([self.rows(*order), *mates]), self.spec):
            order = order[:-1]
        return order

    def most_asking(self) -> Unpacked:
        """As many rows at the caps as may ask for extras in one batch; never none."""
        longest = row_tokens(self.spec)
        rows = max(1, self.spec.max_tokens // (longest * (1 + self.spec.extras_rows)))
        batch = self.stretched(made.lengths_within(self.spec, longest), min(rows, self.spec.max_rows))
        return made.asking(batch, range(batch.rows))

    def full_batches(self) -> Iterator[tuple[str, Unpacked]]:
        """As many rows at the caps as fit; and max_rows rows, as long as they may then be."""
        spec = self.spec
        at_caps = min(spec.max_rows, spec.max_tokens // row_tokens(spec))
        yield "longest", self.stretched(made.lengths_within(spec, row_tokens(spec)), at_caps)
        widest = self.stretched(made.lengths_within(spec, spec.max_tokens // spec.max_rows), spec.max_rows)
        if at_caps < spec.max_rows and made.fits(widest, spec):
            yield "widest", widest


def described(batch: Unpacked) -> str:
    """How large it is, for a sentence."""
    rows = counted(batch.rows, "row")
    return f"{rows} of {counted(made.tokens(batch), 'token')}" if batch.lengths else rows


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
