"""`externalscaler.ExternalScaler`: tells KEDA how much waits because there are too few gateways.

Answered from the queues themselves, by whichever gateway is asked, for all of them. What waits because every replica is
busy is not counted: more gateways would not help, Serve scales replicas.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from headrace.gateway.peers import Peers
from headrace.keda import externalscaler_pb2 as pb
from headrace.keda import externalscaler_pb2_grpc
from headrace.rpc.call import Call

METRIC: Final = "queued_seconds"
TARGET: Final = "queuedSeconds"
"""In the trigger's metadata."""


class ExternalScaler(externalscaler_pb2_grpc.ExternalScalerServicer):
    """The service. The figure is a sum, its target what one gateway may have of it: `metricType: AverageValue`."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def IsActive(self, request: pb.ScaledObjectRef, rpc: Call) -> pb.IsActiveResponse:
        """Always: at none nobody would be there to answer, and who is asked is there."""
        return pb.IsActiveResponse(result=True)

    async def StreamIsActive(self, request: pb.ScaledObjectRef, rpc: Call) -> AsyncIterator[pb.IsActiveResponse]:
        yield pb.IsActiveResponse(result=True)
        await asyncio.Event().wait()  # until its caller leaves: nothing changes

    async def GetMetricSpec(self, request: pb.ScaledObjectRef, rpc: Call) -> pb.GetMetricSpecResponse:
        try:
            target_s = _target_s(request.scalerMetadata)
        except ValueError as error:
            await rpc.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the trigger's metadata: {error}")
        spec = pb.MetricSpec(metricName=METRIC, targetSizeFloat=target_s)
        return pb.GetMetricSpecResponse(metricSpecs=[spec])

    async def GetMetrics(self, request: pb.GetMetricsRequest, rpc: Call) -> pb.GetMetricsResponse:
        """There is one figure, whatever name it is asked by."""
        value = pb.MetricValue(metricName=METRIC, metricValueFloat=await self._peers.queued_s())
        return pb.GetMetricsResponse(metricValues=[value])

    async def StreamMetricSpec(self, request: pb.ScaledObjectRef, rpc: Call) -> None:
        await rpc.abort(grpc.StatusCode.UNIMPLEMENTED, "a target is what the trigger says: it changes with it alone")


def _target_s(metadata: Any) -> float:
    """Seconds of work that one gateway may have waiting. Raises: ValueError."""
    text = metadata.get(TARGET)
    if text is None:
        raise ValueError(f"{TARGET} is missing: the seconds of work that may wait at one gateway, for instance '0.05'")
    try:
        target_s = float(text)
    except ValueError:
        target_s = math.nan
    if not 0 < target_s < math.inf:
        raise ValueError(f"{TARGET} is {text[:64]!r}, not a number of seconds above 0")
    return target_s
