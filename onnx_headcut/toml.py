"""What policies and recipes share: reading TOML, and errors with the nearest right word."""

from __future__ import annotations

import difflib
import tomllib
from typing import TYPE_CHECKING, Any

from onnx_headcut.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises InputError for what cannot be read as one."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not TOML: {error}") from None


def demand_known(table: Iterable[str], names: Sequence[str], where: str, what: str) -> None:
    """Raise InputError for the first key of ``table`` that is not among ``names``."""
    for key in table:
        if key not in names:
            near = difflib.get_close_matches(key, names, 3, 0.5) or names
            raise InputError(
                f"{where}: there is no {what} {key!r}", advice=f"Is it {' or '.join(near)}?"
            )
