"""Rules for ops that neither onnx nor this tool knows: from installed packages and from modules.

A rule is registered by being in a list: a module's ``RULES``, named by ``--plugin`` or by an entry
point of the group ``onnx_headcut.rules``. Nothing is global: the `Extensions` of a run go with its
`Interpreter`, where shapes and rules are looked up. docs/rules.md shows a complete example.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from onnx_headcut.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import onnx

    from onnx_headcut.graph.facts import Fact
    from onnx_headcut.tracing.view import Outcome, View

GROUP = "onnx_headcut.rules"
"""The group of entry points: each names a module with ``RULES``, or such a list itself."""

_ADVICE = "a plugin is a module with RULES, a list of onnx_headcut.plugins.Rule: see docs/rules.md"


@dataclass(frozen=True)
class Rule:
    """What an op does to classes, and the shapes that it makes.

    ``apply`` is called where an input carries classes (`Labels`) or class numbers (`Lookup`,
    `Columns`), and says what its outputs carry and which edits the node needs. ``shapes`` gives a
    `Fact` for each output from the node (as it is, and as it will be) and the facts of its inputs;
    without it the model's own value_info is believed. ``override`` must be said where the tool has
    a rule of its own for the op. ``domain`` is the op's domain, "" for onnx's own.
    """

    op: str
    apply: Callable[[View], Outcome]
    shapes: Callable[[onnx.NodeProto, Sequence[Fact]], Sequence[Fact]] | None = None
    domain: str = ""
    override: bool = False

    @property
    def name(self) -> str:
        """The op with its domain, as ``Acme::Decode``."""
        return f"{self.domain}::{self.op}" if self.domain else self.op


PluginLike: TypeAlias = "str | Path | ModuleType | Rule | Iterable[Rule]"


@dataclass(frozen=True)
class Plugin:
    """Rules that came together, and from where."""

    name: str
    rules: tuple[Rule, ...]

    @property
    def line(self) -> str:
        """The plugin and its ops, for reports."""
        ops = ", ".join(f"{r.name}{', overriding' if r.override else ''}" for r in self.rules)
        return f"{self.name} ({ops})"


@dataclass
class Extensions:
    """The rules of one run: those from outside by domain and name, and the tool's own by name."""

    plugins: tuple[Plugin, ...] = ()
    _outside: dict[tuple[str, str], tuple[Rule, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for plugin in self.plugins:
            for rule in plugin.rules:
                self._add(plugin, rule)

    def _add(self, plugin: Plugin, rule: Rule) -> None:
        from onnx_headcut.rules import is_built_in  # noqa: PLC0415  rules import this module

        key = (_plain(rule.domain), rule.op)
        if key in self._outside:
            raise UsageError(f"two plugins have a rule for {rule.name}: {self._outside[key][1]} and "
                             f"{plugin.name}", advice="use one of them")  # fmt: skip
        if is_built_in(*key) and not rule.override:
            raise UsageError(
                f"plugin {plugin.name} has a rule for {rule.name}, and so has onnx-headcut",
                advice="give the rule override=True if it is to replace the built-in one",
            )
        self._outside[key] = (rule, plugin.name)

    def find(self, node: onnx.NodeProto) -> Rule | None:
        """The rule for a node: from outside, or the tool's own for a plugin known by its name."""
        from onnx_headcut.rules.plugins import KNOWN  # noqa: PLC0415  rules import this module

        found = self._outside.get((_plain(node.domain), node.op_type))
        return KNOWN.get(node.op_type) if found is None else found[0]

    def origin(self, node: onnx.NodeProto) -> str:
        """The plugin that a node's rule comes from; "" for the tool's own."""
        found = self._outside.get((_plain(node.domain), node.op_type))
        return "" if found is None else found[1]

    def used(self, proto: onnx.ModelProto) -> tuple[str, ...]:
        """The plugins from outside that have a rule for a node of the model, one line each."""
        from onnx_headcut.graph.walking import all_nodes  # noqa: PLC0415  onnx is needed only here

        names = {self.origin(node) for node in all_nodes(proto)} if self._outside else set()
        return tuple(plugin.line for plugin in self.plugins if plugin.name in names)


def load(plugins: Sequence[PluginLike] = ()) -> Extensions:
    """Collect the rules of installed packages and of ``plugins``.

    These are names of modules, paths of ``.py`` files, modules, or rules themselves. Raises
    UsageError for what cannot be loaded, is no rule, or takes a built-in op without saying so.
    """
    if isinstance(plugins, (str, Path)):
        plugins = [plugins]
    return Extensions((*_installed(), *(_loaded(plugin) for plugin in plugins)))


def _installed() -> Iterator[Plugin]:
    for point in _points(tuple((folder, _changed(folder)) for folder in sys.path)):
        package = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
        name = f"{point.name}{package}"
        yield Plugin(name, _rules(name, _tried(name, point.load)))


@cache
def _points(_folders: tuple[tuple[str, int], ...]) -> list[metadata.EntryPoint]:
    """The entry points of the packages there: read once, until a folder is added or changes."""
    return sorted(metadata.entry_points(group=GROUP), key=lambda p: (p.name, p.value))


def _changed(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns  # noqa: PTH116  (of many folders, for each model)
    except OSError:
        return 0


def _loaded(plugin: PluginLike) -> Plugin:
    if isinstance(plugin, ModuleType):
        return Plugin(plugin.__name__, _rules(plugin.__name__, plugin))
    if isinstance(plugin, (str, Path)):
        name = str(plugin)
        path = Path(plugin)
        if path.suffix == ".py":
            return Plugin(path.name, _rules(name, _tried(name, lambda: _from_file(path))))
        return Plugin(name, _rules(name, _tried(name, lambda: importlib.import_module(name))))
    rules = _rules("plugins", plugin)
    return Plugin(rules[0].apply.__module__ if rules else "plugins", rules)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError("no such file")
    name = f"onnx_headcut_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses in it look themselves up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _tried(name: str, work: Callable[[], Any]) -> Any:
    """Import what a stranger wrote: whatever goes wrong there is told with the plugin's name."""
    try:
        return work()
    except Exception as error:
        what = f"plugin {name} cannot be loaded: {type(error).__name__}: {error}"
        raise UsageError(what, advice=_ADVICE) from error


def _rules(name: str, found: Any) -> tuple[Rule, ...]:
    if isinstance(found, ModuleType):
        found = getattr(found, "RULES", None)
    rules = [found] if isinstance(found, Rule) else found
    rules = list(rules) if isinstance(rules, Iterable) else []
    if not rules or not all(isinstance(rule, Rule) for rule in rules):
        raise UsageError(f"plugin {name} has no rules", advice=_ADVICE)
    return tuple(rules)


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
