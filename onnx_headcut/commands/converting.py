"""Options that are text or paths become so without pydantic, which takes longer to import than onnx.

Newer versions of Typer convert every option by pydantic, also those that nobody gave. Where a
version has no such step, or an option is of another kind, everything stays Typer's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS: dict[Any, tuple[Callable[[str], Any], bool]] = {
    str: (str, False), Path: (Path, False), list[str]: (str, True), list[Path]: (Path, True),
    bool: (bool, False),
}  # fmt: skip
"""What makes a value of an annotation, and whether there may be several; a flag is a bool already."""


@dataclass(frozen=True)
class _Plain:
    """Stands in for Typer's `RuntimeParam`."""

    kind: Callable[[str], Any]
    several: bool

    def coerce(self, value: Any, param: Any, ctx: object) -> Any:
        """Give the option's value; None where there is none, as Typer does."""
        del ctx
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        return [self.kind(v) for v in value] if self.several else self.kind(value)


@dataclass(frozen=True)
class _Number:
    """Stands in until a number is given: a default is one already, and text is Typer's to convert."""

    def coerce(self, value: Any, param: Any, ctx: object) -> Any:
        """Give the option's value, with Typer's bounds and complaints where it was given."""
        if value is None or isinstance(value, int):
            return value
        param._runtime_param = None  # noqa: SLF001
        return param.get_runtime_param().coerce(value, param, ctx)


def convert_plainly(command: Any) -> None:
    """Prepare the parameters of a command, which gives no help itself, and of those below it."""
    command.add_help_option = False
    for parameter in command.params:
        annotation = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
        untouched = getattr(parameter, "_runtime_param", parameter) is None
        if untouched and annotation in {int, *KINDS}:
            stand_in = _Number() if annotation is int else _Plain(*KINDS[annotation])
            parameter._runtime_param = stand_in  # noqa: SLF001
    for below in getattr(command, "commands", {}).values():
        convert_plainly(below)
