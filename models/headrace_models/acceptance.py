"""acceptance: how likely each way of (re)trying a payment is to be approved.

Columns of the payment and its past attempts are tokens of one small transformer; a candidate action is read against
what it makes of them. What must not be tried at all is not the model's business: see `retries`.

Legend: B = rows, N = packed attempts, T = tokens of a row, D = width, K = candidate actions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from headrace_models import segments, wire
from headrace_models.attempts import ATTEMPT_TABLES, PAYMENT_TABLES
from headrace_models.features import HOUR_US, ID_BUCKETS
from headrace_models.retries import PAD
from headrace_models.vocabulary import of_attempts as vocabulary

__all__ = ["Acceptance", "AcceptanceConfig", "build", "vocabulary"]

MOMENT: Final = 5
"""hour (sin, cos), weekday, day of the month (sin, cos)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceConfig:
    """Size of the network."""

    width: int = 64
    heads: int = 4
    layers: int = 2
    hidden: int = 192
    dropout: float = 0.1
    """In training."""


def build(config: dict[str, Any]) -> Acceptance:
    """The factory that spec.yaml names. Raises: TypeError for an unknown key."""
    return Acceptance(AcceptanceConfig(**config))


class Acceptance(nn.Module):
    """A payment, its attempts so far and candidate actions in; P(approved) of each candidate out."""

    def __init__(self, config: AcceptanceConfig) -> None:
        super().__init__()
        width = config.width
        self.payment = nn.ModuleList(nn.Embedding(entries, width) for entries in PAYMENT_TABLES)
        self.issuer = nn.Embedding(ID_BUCKETS, width)
        self.moment = nn.Linear(MOMENT + 2, width)
        self.attempt = nn.ModuleList(nn.Embedding(entries, width) for entries in ATTEMPT_TABLES)
        self.attempt_age = nn.Linear(2, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                config.heads,
                config.hidden,
                dropout=config.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.action = nn.Embedding(len(wire.ACTIONS), width)
        self.then = nn.Linear(MOMENT + 1, width)
        self.head = nn.Sequential(nn.Linear(3 * width, 128), nn.GELU(), nn.Linear(128, 32), nn.GELU(), nn.Linear(32, 1))
        self.calibration: Tensor
        """[2, 2]: (a, b) of first attempts and of retries."""
        self.register_buffer("calibration", torch.tensor([[1.0, 0.0], [1.0, 0.0]]))

    def forward(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> dict[str, Tensor]:
        logit_BK = self.logits(inputs, lengths)
        a_B1, b_B1 = self.calibration[(lengths["attempt"] > 0).long().to(logit_BK.device)][:, :, None].unbind(1)
        known_BK = (inputs["candidates"] > PAD) & (inputs["candidates"] < len(wire.ACTIONS))
        return {"approve": torch.where(known_BK, torch.sigmoid(a_B1 * logit_BK + b_B1), 0.0)}

    def logits(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> Tensor:
        """Uncalibrated, [B, K]."""
        context_BD = self._context(inputs, lengths["attempt"])
        candidate_BK = inputs["candidates"].clamp(0, len(wire.ACTIONS) - 1).long()
        delay_h_BK = torch.tensor(wire.DELAY_H, device=candidate_BK.device)[candidate_BK]
        then_BK = inputs["payment_ts"] + (delay_h_BK * HOUR_US).long()
        action_BKD = self.action(candidate_BK) + self.then(_moment(then_BK, torch.log1p(delay_h_BK)))
        context_BKD = context_BD[:, None].expand_as(action_BKD)
        out: Tensor = self.head(torch.cat([context_BKD, action_BKD, context_BKD * action_BKD], 2))
        return out[..., 0]

    def padded_tokens(self, lengths: dict[str, Tensor]) -> int:
        """Attempts computed for a batch: every row gets as many places as the longest needs."""
        attempt = lengths["attempt"]
        return len(attempt) * int(attempt.max()) if len(attempt) else 0

    def _context(self, inputs: dict[str, Tensor], lengths_B: Tensor) -> Tensor:
        """The payment after looking at its columns and attempts, [B, D]."""
        device = inputs["payment_ts"].device
        columns_BTD = self._columns(inputs)
        length = int(lengths_B.max()) if len(lengths_B) else 0
        places = torch.arange(length)[None]
        real_BL = places < lengths_B[:, None]
        starts_B = torch.cumsum(lengths_B, 0) - lengths_B
        index_BL = torch.where(real_BL, starts_B[:, None] + places, 0).to(device)
        attempts_ND = self._attempts(inputs, lengths_B)
        attempts_BLD = attempts_ND[index_BL] if length else columns_BTD[:, :0]
        x_BTD = torch.cat([columns_BTD, attempts_BLD], 1)
        padding_BT = torch.zeros(x_BTD.shape[:2], dtype=torch.bool, device=device)
        padding_BT[:, columns_BTD.shape[1] :] = ~real_BL.to(device)
        for layer in self.layers:
            x_BTD = layer(x_BTD, src_key_padding_mask=padding_BT)
        normed: Tensor = self.norm(x_BTD[:, 0])
        return normed

    def _columns(self, inputs: dict[str, Tensor]) -> Tensor:
        """One token a column of the payment; the first, its moment and amount, is what is read in the end."""
        codes_BC = inputs["payment_codes"].long()
        log_amount_B1 = torch.log1p(inputs["payment_amount"].clamp(0, 1e7))
        moment_BX = _moment(inputs["payment_ts"][:, 0], log_amount_B1[:, 0] / 4)
        attempt_B1 = torch.log1p(inputs["attempt_no"].float())
        tokens = [self.moment(torch.cat([moment_BX, attempt_B1], 1))]
        tokens += [table(codes_BC[:, i] % PAYMENT_TABLES[i]) for i, table in enumerate(self.payment)]
        tokens += [self.issuer(inputs["issuer_bin"][:, 0] % ID_BUCKETS)]
        return torch.stack(tokens, 1)

    def _attempts(self, inputs: dict[str, Tensor], lengths_B: Tensor) -> Tensor:
        """One token a past attempt, [N, D]."""
        codes_NC, ts_N = inputs["attempt_codes"].long(), inputs["attempt_ts"]
        row_N = segments.of(lengths_B).row_N.to(ts_N.device)
        age_h_N = (inputs["payment_ts"][row_N, 0] - ts_N).clamp(min=0).float() / HOUR_US
        age_N2 = torch.stack([torch.log1p(age_h_N) / 4, torch.exp(-age_h_N)], 1)
        x_ND: Tensor = self.attempt_age(age_N2)
        for i, table in enumerate(self.attempt):
            x_ND = x_ND + table((codes_NC[:, i] + (i == 2)).clamp(min=0) % ATTEMPT_TABLES[i])
        return x_ND


def _moment(ts: Tensor, more: Tensor) -> Tensor:
    """When in the day, the week and the month `ts` (microseconds) is, and `more`: [..., MOMENT + 1]."""
    hour = (ts % (24 * HOUR_US)).float() * (2 * math.pi / (24 * HOUR_US))
    day = ts // (24 * HOUR_US)
    month = _day_of_month(day).float() * (2 * math.pi / 31)
    week = ((day + 3) % 7).float() / 7
    return torch.stack([hour.sin(), hour.cos(), week, month.sin(), month.cos(), more], -1)


def _day_of_month(day: Tensor) -> Tensor:
    """1..31 of days since 1 January 1970. Source: Hinnant, "chrono-compatible low-level date algorithms"."""
    shifted = day + 719_468
    of_era = shifted % 146_097
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    return of_year - (153 * month + 2) // 5 + 1
