"""Pairs are told to control once a period, whatever comes while they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from headrace.gateway import telling
from headrace.gateway.link import Sender
from headrace.gateway.telling import PairTeller
from headrace.tasks import end
from headrace.testing.control import FakeControl

Run = Callable[..., Any]
PERIOD_S = 0.2
NOTED = 800
EVERY_S = 0.001


def test_a_message_holds_all_of_a_period(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control pays by the message: traffic that never pauses must not make one of every few pairs."""
    monkeypatch.setattr(telling, "TELL_S", PERIOD_S)

    async def main() -> tuple[list[int], float]:
        async with FakeControl() as control:
            teller = PairTeller(control.address, Sender("gateway"))
            notes = teller.notes("e", "1", noise=False)
            clock = asyncio.get_running_loop().time
            begun, running = clock(), asyncio.create_task(teller.run())
            for _ in range(NOTED):
                notes.sampled(1)
                await asyncio.sleep(EVERY_S)
            while sum(message.counts.sampled for message in control.told) < NOTED:
                await asyncio.sleep(EVERY_S)
            took_s = clock() - begun
            await end(running)
            return [message.sequence for message in control.told], took_s

    sequences, took_s = run(main())

    assert sequences == list(range(1, len(sequences) + 1))
    assert 2 <= len(sequences) <= took_s / PERIOD_S
