"""The user's own inputs: what validation feeds, and the pictures that a background is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from onnx_headcut.errors import UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import onnx

    from onnx_headcut.fitting import Picture
    from onnx_headcut.graph import model as files
    from onnx_headcut.validation.inputs import NamedFeed

    FeedsLike: TypeAlias = "Sequence[NamedFeed] | Feeds"


@dataclass(frozen=True)
class Feeds:
    """The user's own inputs for validation: an ``.npz`` of arrays, pictures, or both.

    ``preprocess`` is a preset's name or settings; without it the model tells, as far as it can.
    """

    arrays: str | os.PathLike[str] | None = None
    images: Sequence[str | os.PathLike[str]] = ()
    preprocess: str | None = None

    def read(self, proto: onnx.ModelProto) -> list[NamedFeed]:
        """Read what is named, in the dtypes and shapes of the model's inputs."""
        from onnx_headcut.validation import arrays, preprocess  # noqa: PLC0415

        chosen = None if self.preprocess is None else preprocess.parse(self.preprocess)
        if chosen is not None and not self.images:
            raise UsageError("preprocessing is given, but no picture", advice="Add --image FILE.")
        feeds = [] if self.arrays is None else arrays.from_npz(Path(self.arrays), proto)
        if self.images:
            feeds += preprocess.from_images([Path(image) for image in self.images], proto, chosen)
        return feeds


def read_feeds(feeds: FeedsLike | None, source: files.Source) -> Sequence[NamedFeed] | None:
    """Read inputs that are named by files, before any other work."""
    return feeds.read(source.proto) if isinstance(feeds, Feeds) else feeds


def read_pictures(feeds: FeedsLike, source: files.Source) -> list[Picture]:
    """Pictures to fit to, which are read one by one as they are needed."""
    from onnx_headcut.fitting.pictures import one_by_one, pictures_of  # noqa: PLC0415

    if not isinstance(feeds, Feeds):
        return one_by_one(feeds, source.proto)
    paths = [Path(path) for path in (*feeds.images, *([] if feeds.arrays is None else [feeds.arrays]))]
    return pictures_of(paths, source.proto, feeds.preprocess)
