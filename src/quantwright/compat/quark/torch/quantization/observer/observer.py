"""``quark.torch.quantization.observer.observer``: observer classes as markers; a configuration names them.

They observe nothing: ``dialects/quark.py`` says which observer of ours each one is.
"""

from __future__ import annotations

from typing import Any

from quantwright.errors import InputError

__all__ = [
    "LSQObserver",
    "ObserverBase",
    "PerBlock2DMinMaxObserver",
    "PerBlockBFPObserver",
    "PerBlockMXAdaptiveObserver",
    "PerBlockMXBufferReuseObserver",
    "PerBlockMXDiffsObserver",
    "PerBlockMXObserver",
    "PerChannelMinMaxObserver",
    "PerChannelPowOf2MinMSEObserver",
    "PerChannelPowOf2MinMaxObserver",
    "PerGroupMinMaxObserver",
    "PerTensorHistogramObserver",
    "PerTensorHistogramObserverPro",
    "PerTensorMSEObserver",
    "PerTensorMinMaxObserver",
    "PerTensorPercentileObserver",
    "PerTensorPowOf2MinMSEObserver",
    "PerTensorPowOf2MinMaxObserver",
    "PlaceholderObserver",
    "TQTObserver",
    "UniformScalingObserver",
]


class ObserverBase:
    """Returns the base of all markers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        raise InputError(
            f"{type(self).__name__} names an observer in a configuration and observes nothing itself",
            fix="measure a tensor with quantwright.observe(batches, spec)",
        )


class PlaceholderObserver(ObserverBase):
    """Returns the marker of no observer: a cast, or a format with exponents of its own."""


class UniformScalingObserver(ObserverBase):
    """Returns the common base of the observers of one scale; it chooses no range."""


class PerTensorMinMaxObserver(UniformScalingObserver):
    """Returns the marker of the smallest and largest value of a tensor."""


class PerChannelMinMaxObserver(UniformScalingObserver):
    """Returns the marker of the smallest and largest value of every channel."""


class PerGroupMinMaxObserver(UniformScalingObserver):
    """Returns the marker of the smallest and largest value of every group."""


class PerBlock2DMinMaxObserver(UniformScalingObserver):
    """Returns the marker of the smallest and largest value of every two-dimensional block."""


class PerBlockMXObserver(ObserverBase):
    """Returns the marker of a shared scale for every block, by its largest value."""


class PerBlockMXBufferReuseObserver(PerBlockMXObserver):
    """Returns the marker of PerBlockMXObserver with less memory."""


class PerBlockMXDiffsObserver(PerBlockMXObserver):
    """Returns the marker of a shared scale for every block, the better of two exponents."""


class PerBlockMXAdaptiveObserver(PerBlockMXObserver):
    """Returns the marker of a shared scale for every block, chosen by its error."""


class PerBlockBFPObserver(ObserverBase):
    """Returns the marker of block floating point."""


class PerTensorHistogramObserver(UniformScalingObserver):
    """Returns the marker of a histogram of absolute values."""


class PerTensorHistogramObserverPro(UniformScalingObserver):
    """Returns the marker of a histogram whose range has the least squared error."""


class PerTensorPercentileObserver(PerTensorHistogramObserver):
    """Returns the marker of a percentile."""


class PerTensorMSEObserver(PerTensorHistogramObserver):
    """Returns the marker of the range with the least squared error."""


class PerTensorPowOf2MinMaxObserver(PerTensorMinMaxObserver):
    """Returns the marker of the power of two nearest to the range of a tensor."""


class PerTensorPowOf2MinMSEObserver(PerTensorPowOf2MinMaxObserver):
    """Returns the marker of the power of two with the least squared error."""


class PerChannelPowOf2MinMaxObserver(PerChannelMinMaxObserver):
    """Returns the marker of the power of two nearest to the range of every channel."""


class PerChannelPowOf2MinMSEObserver(PerChannelPowOf2MinMaxObserver):
    """Returns the marker of powers of two with the least squared error, for every channel."""


class LSQObserver(ObserverBase):
    """Returns the marker of a learned step size (arXiv 1902.08153)."""


class TQTObserver(ObserverBase):
    """Returns the marker of a trained threshold (arXiv 1903.08066)."""
