"""``pytorch_nndct.utils``: the registration of custom operators, which this face refuses with the way on."""

from __future__ import annotations

from typing import Any, NoReturn

from quantwright.compat.pytorch_nndct._messages import RefusedError, coded


def register_custom_op(op_type: str = "", attrs_list: Any = None, mapping_to_xir: bool = False) -> NoReturn:
    """Raises RefusedError: there is no compiler behind this face that an operator could be registered with."""
    del attrs_list, mapping_to_xir
    raise coded(
        "OP_REGIST",
        RefusedError(
            f"custom operators ('{op_type}') are not registered here",
            fix="leave the decorator out: a function of torch operators is captured as it is and stays float where the"
            " target cannot compute it; a native operator becomes one node with torch.library.custom_op",
        ),
    )
