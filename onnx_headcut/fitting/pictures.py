"""Pictures to fit to, one a run, read when they are needed: hundreds need not fit in memory.

Where a model's batch is open, arrays with several pictures are taken apart; where it is fixed, a
batch counts as one picture.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from onnx_headcut.errors import InputError, UsageError
from onnx_headcut.validation import preprocess
from onnx_headcut.validation.arrays import from_npz
from onnx_headcut.validation.inputs import Feed, input_specs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import onnx

    from onnx_headcut.validation.inputs import NamedFeed

Picture = Callable[[], Feed]
"""Gives one picture, as the model is fed with it."""

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif"})
ARRAYS = frozenset({".npz", ".npy"})


def pictures_of(paths: Sequence[Path], proto: onnx.ModelProto, how: str | None = None) -> list[Picture]:
    """Find the pictures: files, all of a folder, and arrays in ``.npz``; ``how`` as --preprocess.

    Raises InputError for what is not there, UsageError where preprocessing is said and no picture.
    """
    arrays = [path for path in paths if path.suffix.lower() in ARRAYS]
    files = [file for path in paths if path not in arrays for file in _files(path)]
    chosen = None if how is None or not files else preprocess.parse(how)
    found = one_by_one([feed for path in arrays for feed in from_npz(path, proto)], proto)
    if files:
        preprocess.from_images(files[:1], proto, chosen)  # what is wrong with all is told at once
    return found + [partial(_read, file, proto, chosen) for file in files]


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
        if not inside:
            raise UsageError(f"{path.name}: no pictures in this folder")
        yield from inside
    elif path.is_file():
        yield path
    else:
        raise InputError(f"{path.name}: no such file or folder")


def _read(file: Path, proto: onnx.ModelProto, chosen: preprocess.Preprocess | None) -> Feed:
    return preprocess.from_images([file], proto, chosen)[0].feed


def one_by_one(feeds: Sequence[NamedFeed], proto: onnx.ModelProto) -> list[Picture]:
    """Take feeds apart where the batch is open."""
    open_batch = {s.name for s in input_specs(proto) if s.dims and isinstance(s.dims[0], str)}
    found: list[Picture] = []
    for feed in feeds:
        counts = {len(feed.feed[name]) for name in open_batch & feed.feed.keys()}
        if len(counts) == 1:
            found += [partial(_part, feed.feed, open_batch, k) for k in range(counts.pop())]
        else:
            found.append(partial(dict, feed.feed))
    return found


def _part(feed: Feed, open_batch: set[str], k: int) -> Feed:
    return {name: v[k : k + 1] if name in open_batch else v for name, v in feed.items()}
