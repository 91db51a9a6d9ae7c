"""Dialects: foreign configuration files to and from QuantConfig. No torch.

To add one: write ``dialects/<name>.py`` with ``plugin = Dialect(...)``: ``detect(document) -> str | None`` says why
this document is of this dialect, ``read(document) -> (QuantConfig, [Unmapped])`` raises ConfigError with *all*
problems, and ``write(config) -> (text, [Unmapped])`` says exactly what cannot be expressed. Implicit
defaults of the other tool become values with a Source, so that ``explain`` can show them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from quantwright.config.config import QuantConfig, Unmapped
from quantwright.config.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Returns one foreign configuration language.

    Attributes:
        keys: its top-level keys; they tell which dialect an unrecognised document is nearest to.
        default: what the tool does when it is given no file; becomes a preset of the dialect's name.
        presets: configurations the tool itself has names for; each becomes a preset of that name.
    """

    name: str
    tool: str
    detect: Callable[[Document], str | None]
    read: Callable[[Document], tuple[QuantConfig, list[Unmapped]]]
    write: Callable[[QuantConfig], tuple[str, list[Unmapped]]]
    keys: tuple[str, ...] = ()
    default: Callable[[], QuantConfig] | None = None
    presets: Mapping[str, Callable[[], QuantConfig]] = field(default_factory=dict)
