"""The benchmark's encoder as every peer runs it: the very module and weights that headrace serves, on one thread.

Runs inside the peers' environments: torch, safetensors and numpy alone. `headrace_models` is on PYTHONPATH.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file


class Encoder:
    """Batches of numpy rows in, scores [B, 1] out."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        directory = Path(os.environ["BENCH_MODEL_DIRECTORY"])
        spec = importlib.util.spec_from_file_location("bench_model", directory / "model.py")
        assert spec is not None, f"no model.py in {directory}"
        assert spec.loader is not None, "This is a bug."
        source: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(source)
        self.ragged = os.environ["BENCH_WORKLOAD"] == "W2"
        self.module = source.build({"ragged": self.ragged})
        self.module.load_state_dict(load_file(directory / "weights.safetensors"))
        self.module.eval()
        for rows in (1, 8, 32, 64):
            self([np.zeros((32, 16), np.float32)] * rows)

    @torch.inference_mode()
    def __call__(self, rows: list[np.ndarray]) -> np.ndarray:
        """Rows [32, 16] of W1 are stacked; rows [T, 16] of W2 are joined end to end, and the module buckets them."""
        if not self.ragged:
            return self.module({"events": torch.from_numpy(np.stack(rows))}, {})["score"].numpy()
        events = torch.from_numpy(np.concatenate(rows))
        lengths = torch.tensor([len(row) for row in rows])
        return self.module({"events": events}, {"events": lengths})["score"].numpy()

    @torch.inference_mode()
    def padded(self, events: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Rows that the callers padded: [B, 128, 16] goes through the layers as it is, masked."""
        module, events_BLF = self.module, torch.nan_to_num(torch.from_numpy(events)).clamp(-10, 10)
        lengths_B = torch.from_numpy(lengths).clamp(1, events.shape[1])
        mask_BL = torch.arange(events.shape[1])[None, :] < lengths_B[:, None]
        hidden = module.encoder(module.project(events_BLF), src_key_padding_mask=~mask_BL)
        weights = mask_BL.to(hidden.dtype)[..., None]
        return module.head((hidden * weights).sum(1) / weights.sum(1)).numpy()
