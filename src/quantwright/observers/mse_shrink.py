"""The whole range or a shrunk one, one percent at a time, whichever has the least error on the batch itself.

MQBench's MSEObserver (spec mqbench_sophgo 4): both ends times 1, 0.99, 0.98 ... (95 factors for one range, 80
for several), and the mean of |q(x) - x| ** power decides; of equal ones the widest. Of several batches under one range
the widest counts. It rounds every batch once per factor; ``mse`` looks at a histogram instead and is much faster.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantwright.config.spec import Granularity
from quantwright.numerics import affine
from quantwright.numerics.choose import choose_qparams
from quantwright.numerics.qparams import QParams
from quantwright.observers import extent
from quantwright.observers._extremes import WidestObserver

PARAMS = {
    "power": {
        "type": "float",
        "default": 2.0,
        "min": 0.1,
        "max": 100.0,
        "help": "the error is |q(x) - x| to this power",
    },
}
_TRIED = {True: 80, False: 95}  # several ranges, one range
_WORST = 1e10  # an error that is not below this is never the best one
_ROWS = Granularity(kind="per_channel", axis=0)


class MseShrink(WidestObserver):
    """Returns the observer of the shrunk range with the least error."""

    def observe(self, x_GN: Tensor) -> None:
        """Takes in one batch."""
        low_G, high_G = extent(x_GN)
        several = self.spec.granularity is not None and self.spec.granularity.kind != "per_tensor"
        found_low_G, found_high_G = self._search(x_GN.float(), low_G.float(), high_G.float(), _TRIED[several])
        self.widen(found_low_G.double(), found_high_G.double())

    def _search(self, x_GN: Tensor, low_G: Tensor, high_G: Tensor, tried: int) -> tuple[Tensor, Tensor]:
        """Returns the best ends, float32."""
        spec = self.spec.model_copy(update={"granularity": _ROWS if x_GN.shape[0] > 1 else Granularity()})
        best_low_G, best_high_G, least_G = low_G, high_G, torch.full_like(low_G, _WORST)
        y_GN = torch.empty(x_GN.shape, dtype=torch.float32, device=x_GN.device)
        for index in range(tried):
            factor = 1.0 - index * 0.01
            now_low_G, now_high_G = low_G * factor, high_G * factor
            chosen = choose_qparams(now_low_G, now_high_G, spec)
            rounded = QParams(
                scale=chosen.scale.float().double(), zero_point=chosen.zero_point, super_scale=chosen.super_scale
            )
            with torch.no_grad():
                affine.fake_quantize(x_GN, rounded, spec, arithmetic="reciprocal", out=y_GN)
                error_G = y_GN.sub_(x_GN).abs_().pow_(self.params["power"]).mean(1)
            better_G = error_G < least_G
            least_G = torch.where(better_G, error_G, least_G)
            best_low_G = torch.where(better_G, now_low_G, best_low_G)
            best_high_G = torch.where(better_G, now_high_G, best_high_G)
        return best_low_G, best_high_G


plugin = MseShrink
