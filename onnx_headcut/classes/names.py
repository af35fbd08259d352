"""Class names from presets, label files and foreign metadata: what a source says, by its ids.

A source knows nothing of the head: ``Names.entries[i]`` is what it calls id ``i``, and whether id
``i`` is column ``i`` is decided in ``background.py``, where the count of columns is known.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from onnx_headcut.errors import InputError

LabelsLike: TypeAlias = (
    str | os.PathLike[str] | Sequence[str | int | None] | Mapping[int, str] | Mapping[str, str]
)
Entries: TypeAlias = tuple[str | None, ...]

BACKGROUND = "background"
# Punctuation and case aside: __background__, no-object, No Object, BG.
_BACKGROUND_WORDS = frozenset({"background", "backgroundclass", "bg", "noobject", "noobj"})
# torchvision's and TensorFlow Lite's words for an id that no class has.
_GAP_WORDS = frozenset({"n/a", "???"})

# More than any detector has; a file of this size or with such ids is something else.
_MOST_BYTES = 16 << 20
_MOST_CLASSES = 100_000

METADATA_KEYS = ("names", "classes", "labels")  # Ultralytics writes the first
_LIST_KEYS = (*METADATA_KEYS, "categories", "id2label")  # COCO annotations, transformers configs

_COCO = """person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant -
stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe - backpack
umbrella - - handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat
baseball_glove skateboard surfboard tennis_racket bottle - wine_glass cup fork knife spoon bowl
banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed
- dining_table - - toilet - tv laptop mouse remote keyboard cell_phone microwave oven toaster sink
refrigerator - book clock vase scissors teddy_bear hair_drier toothbrush"""
_COCO_IDS = tuple("N/A" if word == "-" else word.replace("_", " ") for word in _COCO.split())
_VOC = """aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike
person pottedplant sheep sofa train tvmonitor"""

# coco91 leaves id 0 open: the background in torchvision's and TensorFlow's models, unused in DETR.
PRESETS: dict[str, Entries] = {
    "coco80": tuple(name for name in _COCO_IDS if name != "N/A"),
    "coco91": (None, *_COCO_IDS),
    "voc": tuple(_VOC.split()),
}


class _LabelsError(ValueError):
    """Why something is no labels, in words that stand behind the name of the file."""


@dataclass(frozen=True)
class Names:
    """Names as one source gives them.

    ``entries[i]`` is the name of the source's id ``i``, None where it has none (a source that
    counts from 1 has none at 0). ``source`` says where they come from, as tables print it.
    ``recorded`` names were written by a former cut: they are complete, column by column, and the
    background is exactly the entry called ``background``.
    """

    entries: Entries
    source: str
    recorded: bool = False


def is_background(name: str | None) -> bool:
    """Whether a name is a usual word for "no object"."""
    return name is not None and re.sub(r"[\W_]+", "", name).casefold() in _BACKGROUND_WORDS


def is_gap(name: str | None) -> bool:
    """Whether an entry says that no class has this id."""
    return name is None or name.casefold() in _GAP_WORDS


def load_names(labels: LabelsLike) -> Names:
    """Names from a preset's name, a file, or names given as such (a list, or ids to names).

    A preset wins over a file of the same name: ``./voc`` is the file. Raises InputError for a file
    that cannot be read as labels.
    """
    if isinstance(labels, str) and labels.casefold() in PRESETS:
        preset = labels.casefold()
        return Names(PRESETS[preset], f"preset {preset}")
    if isinstance(labels, str | os.PathLike):
        path = Path(labels)
        return Names(_read_file(path), f"labels file {path.name}")
    try:
        return Names(_entries(labels), "labels given")
    except ValueError as error:
        raise InputError(f"cannot take the labels given: {error}", advice=_WAYS) from None


def names_in_metadata(metadata: Mapping[str, str]) -> Names | None:
    """Names that an exporter left in a model's metadata, or None where no entry is a list of them.

    A value that is no list of names is passed by: these keys belong to no standard.
    """
    for key in METADATA_KEYS:
        entries = entries_of(metadata.get(key, ""))
        if entries is not None:
            return Names(entries, f"metadata {key!r}")
    return None


def entries_of(text: str) -> Entries | None:
    """Return the names that a metadata value holds, or None if it holds no list of names."""
    literal = _read_literal(text)
    try:
        return None if literal is None else _entries(literal[0])
    except ValueError:
        return None


def rewrite(text: str, names: Sequence[str]) -> str:
    """Write ``names`` in the form that ``text``, itself a list of names, has.

    JSON stays JSON, a Python literal stays one, and so does a list joined by commas; ids go on
    from the lowest that ``text`` has. What is no list of names stays as it is.
    """
    literal = _read_literal(text)
    if literal is None:
        return text
    data, dump = literal
    if not isinstance(data, dict) or not all(re.fullmatch("[0-9]+", str(key)) for key in data):
        return dump(list(names))
    kind = type(next(iter(data)))
    first = min(int(key) for key in data)
    return dump({kind(i): name for i, name in enumerate(names, first)})


def _read_literal(text: str) -> tuple[object, Callable[..., str]] | None:
    """Return the value that a text stands for, and the function that writes such texts."""
    try:
        return json.loads(text), lambda data: json.dumps(data, ensure_ascii=False)
    except (ValueError, RecursionError):
        pass
    if text.lstrip()[:1] in {"{", "[", "("}:
        try:
            return ast.literal_eval(text.strip()), repr
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    for separator in ("\n", ",", ";"):
        if separator in text.strip():
            joint = f"{separator} " if f"{separator} " in text else separator
            return text.strip().split(separator), joint.join
    return None


_WAYS = (
    f"Labels are a preset ({', '.join(PRESETS)}) or a file: one name a line (.txt, .names), JSON "
    "or YAML with a list or ids to names, or a TensorFlow label map (.pbtxt)."
)


def _read_file(path: Path) -> Entries:
    text = read_text(path, "labels file", advice=_WAYS)
    suffix = path.suffix.lower()
    read = {".json": _from_json, ".yaml": _from_yaml, ".yml": _from_yaml, ".pbtxt": _from_pbtxt}
    # Label maps also go by the name of .txt.
    fallback = _from_pbtxt if re.match(r"(\s|#.*\n)*item\s*\{", text) else _from_lines
    try:
        return read.get(suffix, fallback)(text)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"cannot read class names from {str(path)!r}: {reason}", advice=_WAYS
        ) from None


def read_text(path: Path, what: str, *, advice: str) -> str:
    """Return the text of a small file; InputError, naming it as ``what``, where that fails."""
    try:
        if path.is_dir():
            raise InputError(f"{what} {str(path)!r} is a directory", advice=advice)
        with path.open("rb") as file:  # read no more than that of a pipe or a device, either
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise InputError(f"{what} {str(path)!r} is too large to be one", advice=advice)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{what} {str(path)!r} does not exist", advice=advice) from None
    except UnicodeDecodeError:
        raise InputError(f"{what} {str(path)!r} is not UTF-8 text", advice=advice) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"cannot read {what} {str(path)!r}: {error}", advice=advice) from None
    if "\0" in text:
        raise InputError(f"{what} {str(path)!r} is binary, not text", advice=advice)
    return text


def _from_json(text: str) -> Entries:
    return _entries(json.loads(text))


def _from_yaml(text: str) -> Entries:
    import yaml  # noqa: PLC0415 - only who reads YAML pays for it

    try:
        return _entries(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise _LabelsError(str(error)) from None


def _from_lines(text: str) -> Entries:
    """One name a line, or an id and a name on every line; ``#`` starts a comment line."""
    lines = [line.strip() for line in text.rstrip().splitlines()]
    empty = [number for number, line in enumerate(lines, 1) if not line]
    if empty:
        # Is it a class without a name or a slip? Every name below hangs on the answer.
        raise _LabelsError(f"line {empty[0]} is empty; delete it, or write N/A for an unused id")
    lines = [line for line in lines if not line.startswith("#")]
    numbered = [re.fullmatch(r"([0-9]{1,6})(?:\s*[:,]\s*|\s+)(\S.*)", line) for line in lines]
    pairs = [(int(match[1]), match[2]) for match in numbered if match]
    ids = [number for number, _ in pairs]
    if len(pairs) == len(lines) and ids == sorted(set(ids)):
        return _by_id(pairs)
    return _entries(lines)


def _entries(data: object) -> Entries:
    """Names from a decoded list, mapping of ids, or mapping that holds one; ValueError if none."""
    if isinstance(data, Mapping):
        for key in _LIST_KEYS:
            if isinstance(data.get(key), list | tuple | dict):
                return _entries(data[key])
        return _by_id([(_id(key), _name(value)) for key, value in data.items()])
    if not isinstance(data, list | tuple):
        raise _LabelsError(f"expected a list of names or ids to names, found {_kind(data)}")
    if data and all(isinstance(entry, Mapping) for entry in data):
        return _by_id([_item(entry) for entry in data])
    return _checked([_name(entry) for entry in data])


def _item(entry: Mapping[object, object]) -> tuple[int, str | None]:
    """One class of a label map or of COCO's categories; the name to read goes before the key."""
    name = entry.get("display_name", entry.get("name"))
    if "id" not in entry or name is None:
        raise _LabelsError(f"an item lacks its id or its name: {dict(entry)}")
    return _id(entry["id"]), _name(name)


def _id(key: object) -> int:
    text = "" if isinstance(key, bool | float) else str(key)
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) >= _MOST_CLASSES:
        raise _LabelsError(f"{key!r} is not a class id")
    return int(text)


def _name(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        raise _LabelsError(f"the name {value!r} is no text: put quotes around yes, no, on and off")
    if isinstance(value, str | int):
        return str(value).strip()
    raise _LabelsError(f"expected a name, found {_kind(value)}")


def _by_id(pairs: list[tuple[int, str]] | list[tuple[int, str | None]]) -> Entries:
    named = dict(pairs)
    if len(named) < len(pairs):
        twice = next(number for number, _ in pairs if sum(number == n for n, _ in pairs) > 1)
        raise _LabelsError(f"id {twice} appears twice")
    return _checked([named.get(i) for i in range(max(named, default=-1) + 1)])


def _checked(entries: list[str | None]) -> Entries:
    if not any(entries):
        raise _LabelsError("there are no names in it")
    if "" in entries:
        raise _LabelsError(f"the name of id {entries.index('')} is empty")
    if len(entries) > _MOST_CLASSES:
        raise _LabelsError(f"{len(entries)} names are too many to be classes")
    return tuple(entries)


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"


# --- TensorFlow label maps: item { id: 1 name: "/m/01g317" display_name: "person" }

_TOKEN = re.compile(
    r"""(?:\s|\#[^\n]*|[:,;])*                            # what only separates
        (?:("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')      # a string
          |([\w.+-]+)                                     # a field's name, a number, an enum
          |([{}<>])
          |(\S)|\Z)""",
    re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|(.))", re.DOTALL)


def _from_pbtxt(text: str) -> Entries:
    """Items at the top level; fields and messages that are not known here are passed by."""
    items: list[dict[object, object]] = []
    blocks: list[str] = []  # the names of the messages that are open here
    field = ""
    for match in _TOKEN.finditer(text):
        string, word, brace, stray = match.groups()
        if stray or (brace and brace in "}>" and not blocks):
            line = text.count("\n", 0, match.end()) + 1
            raise _LabelsError(f"unexpected {stray or brace!r} in line {line}")
        if brace and brace in "{<":
            blocks.append(field)
            if blocks == ["item"]:
                items.append({})
        elif brace:
            blocks.pop()
        elif blocks == ["item"] and field in {"id", "name", "display_name"}:
            items[-1][field] = _unescape(string) if string else word
        # A word behind a field's name is its value, so that the next word is a name again.
        field = word if word and not field else ""
    if blocks:
        raise _LabelsError("its braces do not match")
    if not items:
        raise _LabelsError("it has no 'item { id: ... name: ... }'")
    return _by_id([_item(item) for item in items])


def _unescape(string: str) -> str:
    known = {b"n": b"\n", b"t": b"\t", b"r": b"\r"}

    def plain(match: re.Match[bytes]) -> bytes:
        # Octal escapes are bytes of UTF-8, so that text is put together before it is decoded.
        return bytes([int(match[1], 8) & 255]) if match[1] else known.get(match[2], match[2])

    return _ESCAPE.sub(plain, string[1:-1].encode()).decode(errors="replace")
