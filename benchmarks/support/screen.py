"""Where tables go."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console

__all__ = ["show"]

_WIDTH = 140


def show(what: Any) -> None:
    """Prints what rich draws: in a file, where no window sets a width, as wide as tables are."""
    console = Console()
    has_width = console.is_terminal or "COLUMNS" in os.environ
    (console if has_width else Console(width=_WIDTH)).print(what)
