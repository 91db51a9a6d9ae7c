"""Why a model cannot be captured: the user's file and line, one line of reason, the way on."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

from quantwright.errors import CaptureError
from quantwright.graph.origins import in_library, in_torch

_OURS = __name__.partition(".")[0]
_REASONS = (  # (part of the exception's type or text, reason, way on)
    ("DataDependent", "a branch or size depends on the values of a tensor",
     "make it independent of values (torch.where, a mask, a fixed size)"),
    ("data-dependent", "a branch or size depends on the values of a tensor",
     "make it independent of values (torch.where, a mask, a fixed size)"),
    (".item()", "a tensor's value is taken as a Python number", "keep it a tensor"),
    ("numpy()", "a tensor is turned into a numpy array", "use torch functions inside forward"),
    ("FakeTensor", "the model mixes its own tensors with ones torch.export cannot see",
     "register tensors kept by the model as buffers (register_buffer)"),
)  # fmt: skip


def capture_error(error: Exception, model: str) -> CaptureError:
    """Returns the error for a model that torch.export refused."""
    text = f"{type(error).__name__}: {error}"
    reason, way = next(((r, w) for mark, r, w in _REASONS if mark in text), (one_line(error), "simplify this line"))
    return CaptureError(
        f"the model cannot be captured: {reason}", where=user_place(error) or model,
        fix=f"{way}; or use capture='modules' (--capture modules), which keeps the model as it is, quantizes its"
        " modules and exports nothing; or leave this step out of the model and call it around the result",
    )  # fmt: skip


def user_place(error: BaseException) -> str | None:
    """Returns ``/path/file.py:12`` of the innermost frame in the user's code, of a library if there is none."""
    frames = [frame for cause in _causes(error) for frame in traceback.extract_tb(cause.__traceback__)]
    outside = [f for f in frames if not in_torch(f.filename) and f"/{_OURS}/" not in f.filename.replace("\\", "/")]
    own = [frame for frame in outside if not in_library(frame.filename)]
    chosen = [f for f in own if f.name not in ("<module>",)] or own or outside
    return f"{chosen[-1].filename}:{chosen[-1].lineno}" if chosen else None


def one_line(error: BaseException) -> str:
    """Returns the type and the first line of an exception's message, shortened."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields the chain of causes, the outermost first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
