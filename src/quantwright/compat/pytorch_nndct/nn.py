"""``pytorch_nndct.nn``: the markers of a quantized region, which this face refuses with the way on."""

from __future__ import annotations

from typing import Any, NoReturn

from quantwright.compat.pytorch_nndct._messages import RefusedError, coded


def _refuse(name: str) -> NoReturn:
    raise coded(
        "INPUT_NOT_QUANTIZED",
        RefusedError(
            f"{name} marks a region to quantize; here regions are said in the configuration",
            fix="leave the stubs out: the whole network is quantized; what shall stay float is excluded by a rule of a"
            " native configuration (match: {name: ...}, exclude: true), which quant_config_file takes as well",
        ),
    )


class QuantStub:
    """Refuses to be made; see the error."""

    def __init__(self, *_args: Any, **_options: Any) -> None:
        _refuse("QuantStub")


class DeQuantStub:
    """Refuses to be made; see the error."""

    def __init__(self, *_args: Any, **_options: Any) -> None:
        _refuse("DeQuantStub")
