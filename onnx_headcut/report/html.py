"""HTML and SVG from Python: every text is escaped here, and nowhere else needs to think of it."""

from __future__ import annotations

from html import escape
from typing import TypeAlias

Child: TypeAlias = "str | Markup | list[Child] | None"
"""Text, which is escaped; elements, which are not; lists of both; None for nothing."""

_EMPTY = frozenset({"img", "meta", "br", "rect", "line", "path", "circle", "input"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def h(tag: str, *children: Child, **attributes: str | float | None) -> Markup:
    """Make an element; ``class_`` is class, other underscores become hyphens, None goes."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _EMPTY:
        return Markup(f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{inside(children)}</{tag}>")


def inside(children: Child | tuple[Child, ...]) -> str:
    """Write children one after the other."""
    if children is None:
        return ""
    if isinstance(children, Markup):
        return str(children)
    if isinstance(children, str):
        return escape(printable(children), quote=False)
    return "".join(inside(child) for child in children)


def printable(text: str) -> str:
    """Escape characters that a page must not hold: names in models are strangers'."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def table(
    caption: str, head: tuple[str, ...], rows: list[tuple[Child, ...]], *, numbers_from: int = 1
) -> Markup:
    """Make a table that scrolls by itself on a phone; columns from ``numbers_from`` on are right.

    The first cell of a row is its header, for screen readers.
    """
    # A column that is empty in all rows says nothing.
    used = [at for at in range(len(head)) if not rows or any(inside(row[at]) for row in rows)]
    numbers_from = sum(at < numbers_from for at in used)
    head, rows = tuple(head[at] for at in used), [tuple(row[at] for at in used) for row in rows]
    titles = [
        h("th", title, scope="col", class_="number" if at >= numbers_from else None)
        for at, title in enumerate(head)
    ]
    body = [h("tr", [_cell(at, cell, numbers_from) for at, cell in enumerate(row)]) for row in rows]
    said = h("caption", h("span", caption))
    inner = h("table", said, h("thead", h("tr", *titles)), h("tbody", *body))
    return h("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _cell(at: int, cell: Child, numbers_from: int) -> Markup:
    if at == 0:
        return h("th", cell, scope="row")
    return h("td", cell, class_="number" if at >= numbers_from else None)
