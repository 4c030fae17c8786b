"""fraud-gru: one card's payments folded into a state, a step an event. Scoring costs the same however long the history.

The law: the whole history at once, or event after event with the state carried between, give the same score. So every
feature is one that can be folded: a running mean, the last moment, bitmaps of what was seen. An event's outcome is
not known when it is scored: it enters with the event after it, as `previous_outcome`, and a state is final at once.
History is the source of truth; a state is a cache of it, for one version of the model.

Legend: B = rows, N = packed events, H = hidden width, D = width of an event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from headrace_models import features, segments
from headrace_models.calibration import Calibration
from headrace_models.layers.embedding import EventEmbedding
from headrace_models.vocabulary import of_events as vocabulary

__all__ = ["FraudGru", "FraudGruConfig", "State", "build", "vocabulary"]

BITS: Final = 64
SEEN: Final = 3
"""Bitmaps a state carries: of devices, of countries, of merchants."""
IDS: Final = 2 + SEEN
"""Integers of a state: moment of the last event, how many there were, the bitmaps."""
STATS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FraudGruConfig:
    """Size of the network."""

    width: int = 96
    hidden: int = 128
    dropout: float = 0.5
    """Of what the head reads, in training."""


class State(NamedTuple):
    """What is carried from one event of a card to its next. Zeros: no event yet."""

    h_BX: Tensor
    """float32 [B, H + 1]: the hidden state, and the mean of log amounts."""
    ids_BX: Tensor
    """int64 [B, IDS]."""


def build(config: dict[str, Any]) -> FraudGru:
    """The factory that spec.yaml names. Raises: TypeError for an unknown key."""
    return FraudGru(FraudGruConfig(**config))


class FraudGru(nn.Module):
    """Wire columns and a state in; probability, score and the state after the last event out."""

    def __init__(self, config: FraudGruConfig) -> None:
        super().__init__()
        self.hidden = config.hidden
        self.embed = EventEmbedding(config.width)
        self.enter = nn.Sequential(nn.GELU(), nn.Linear(config.width, 3 * config.hidden))
        self.recur = nn.Linear(config.hidden, 3 * config.hidden)
        self.decay = nn.Parameter(torch.full((config.hidden,), -4.0))
        self.card = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden + config.width, 96),
            nn.GELU(),
            nn.Dropout(config.dropout),
        )
        self.stats = nn.Sequential(nn.Linear(STATS, 32), nn.GELU())
        self.head = nn.Sequential(nn.Linear(96 + 32, 32), nn.GELU(), nn.Linear(32, 1))
        self.calibration = Calibration()

    def forward(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> dict[str, Tensor]:
        logit_B, state = self._fold(inputs, lengths["card"])
        p_B, score_B = self.calibration(logit_B, state.ids_BX[:, 1])
        return {"p": p_B[:, None], "score": score_B[:, None], "state_h": state.h_BX, "state_ids": state.ids_BX}

    def logits(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> Tensor:
        """Uncalibrated, [B]: what training optimises. Without a state the rows are whole histories."""
        rows = len(lengths["card"])
        device = inputs["card_ts"].device
        blank = {
            "state_h": torch.zeros(rows, self.hidden + 1, device=device),
            "state_ids": torch.zeros(rows, IDS, dtype=torch.int64, device=device),
            "previous_outcome": torch.zeros(rows, 1, dtype=torch.int32, device=device),
        }
        return self._fold(blank | inputs, lengths["card"])[0]

    def _fold(self, inputs: dict[str, Tensor], lengths_B: Tensor) -> tuple[Tensor, State]:
        before = State(inputs["state_h"], inputs["state_ids"])
        rows = segments.of(lengths_B).to(inputs["card_ts"].device)
        events = features.folded_events(inputs, rows, before.h_BX[:, -1], before.ids_BX)
        x_ND = self.embed(events.features)
        h_BH = self._unroll(self.enter(x_ND), events.gap_h, before.h_BX[:, :-1], lengths_B)
        card_BD = self.card(torch.cat([h_BH, x_ND[rows.end_B]], 1))
        stats_BD = self.stats(features.merchant_stats(inputs["merchant_stats"]))
        logit_B: Tensor = self.head(torch.cat([card_BD, stats_BD], 1))[:, 0]
        after_BX = torch.cat([h_BH, events.mean_log_amount[rows.end_B, None]], 1)
        return logit_B, State(after_BX, features.folded_ids(inputs, rows, before.ids_BX))

    def _unroll(self, gates_N: Tensor, gap_h_N: Tensor, h_BH: Tensor, lengths_B: Tensor) -> Tensor:
        """The hidden state after each row's last event. Longest rows first: the living ones lead, none is padded."""
        lengths, order = torch.sort(lengths_B, descending=True)
        starts = (torch.cumsum(lengths_B, 0) - lengths_B)[order]
        place_B = order.to(h_BH.device)
        # Every step looks its events up: all of them are laid out at once, in the order of the steps.
        alive = [int((lengths > step).sum()) for step in range(int(lengths.max()))]
        index_N = torch.cat([starts[:count] + step for step, count in enumerate(alive)]).to(h_BH.device)
        gates_N, gap_N1 = gates_N[index_N], torch.log1p(gap_h_N[index_N])[:, None]
        keep_N = torch.exp(-functional.softplus(self.decay) * gap_N1)
        h = h_BH[place_B]
        begin = 0
        done: list[Tensor] = []
        for count in alive:
            done.append(h[count:])
            h = self._step(gates_N[begin : begin + count], h[:count] * keep_N[begin : begin + count])
            begin += count
        finished = torch.cat([h, *reversed(done)])
        return torch.empty_like(finished).index_copy(0, place_B, finished)

    def _step(self, gates_B: Tensor, h_BH: Tensor) -> Tensor:
        """One GRU step. Source: Cho et al., arXiv 1406.1078, with the reset gate behind the recurrent product."""
        reset_in, update_in, new_in = gates_B.chunk(3, 1)
        reset_h, update_h, new_h = self.recur(h_BH).chunk(3, 1)
        new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_h) * new_h)
        return torch.lerp(new, h_BH, torch.sigmoid(update_in + update_h))
