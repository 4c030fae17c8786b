"""A replica that answers like fraud-tx without being it: its probability is a checksum of the row."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from headrace.core.tensors import DATATYPES
from headrace.serving import weights
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2, replica_pb2


def payment_spec() -> control_pb2.ModelSpec:
    """The shipped fraud-tx, as control tells of it."""
    return weights.wire_spec(weights.read(weights.shipped_models() / "fraud-tx" / "1"))


class FakePaymentReplica(FakeReplica):
    """Serves a spec whose inputs are columns of payments; equal rows get equal answers, others hardly ever."""

    def __init__(self, spec: control_pb2.ModelSpec | None = None, replica_id: str = "") -> None:
        super().__init__(payment_spec() if spec is None else spec, replica_id)

    def _answer(self, request: replica_pb2.PackedBatch) -> replica_pb2.PackedAnswer:
        checksums = np.zeros(request.rows, np.uint32)
        for tensor, column in zip(self.spec.inputs, request.columns, strict=True):
            for row, part in enumerate(_rows(self.spec, tensor, column, request)):
                checksums[row] = zlib.crc32(part, int(checksums[row]))
        p, score = (checksums / np.float64(2**32)).astype("<f4"), (checksums % 100).astype("<i4")
        columns = [p.tobytes(), score.tobytes()]
        if request.wants_extras:
            columns.append(_factors(checksums, request).tobytes())
        return replica_pb2.PackedAnswer(columns=columns, status=bytes(request.rows))


def _factors(checksums: npt.NDArray[np.uint32], request: replica_pb2.PackedBatch) -> npt.NDArray[np.float32]:
    """From -3 to 3, another for each of the twelve; zeros where the row did not ask."""
    factors = (checksums[:, None] // np.arange(1, 13) % 7).astype(np.float32) - 3
    factors[np.frombuffer(request.wants_extras, np.uint8) == 0] = 0
    return factors


def _rows(
    spec: control_pb2.ModelSpec, tensor: control_pb2.TensorSpec, column: bytes, request: replica_pb2.PackedBatch
) -> list[bytes]:
    """The part of a column that is each row's."""
    fixed = [size for size in tensor.dims if size >= 0]
    entry_bytes = DATATYPES[tensor.datatype].itemsize * int(np.prod(fixed))
    lengths = np.ones(request.rows, np.int64)
    if tensor.axis:
        place = [axis.name for axis in spec.axes].index(tensor.axis)
        lengths = np.frombuffer(request.lengths[place], "<i4").astype(np.int64)
    ends = np.cumsum(lengths) * entry_bytes
    assert ends[-1] == len(column), "This is a bug."
    return [column[end - length * entry_bytes : end] for end, length in zip(ends, lengths, strict=True)]
