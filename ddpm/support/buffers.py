"""Tables that stay in full precision when the model around them is made half precision."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

HALVES = (torch.float16, torch.bfloat16)


class KeepsPrecision(nn.Module):
    """A module whose buffers `.to(torch.bfloat16)`, `.half()` and the like move, but do not round.

    With 8 bits of mantissa neighbouring timesteps would be one, and the smallest steps would add no noise. Weights are
    rounded as asked.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """What `.to`, `.half`, `.cuda` and their like come down to."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, table in self._buffers.items():
            full = before[name]
            if table is not None and full is not None and table.dtype in HALVES:
                self._buffers[name] = full.to(table.device)
        return self
