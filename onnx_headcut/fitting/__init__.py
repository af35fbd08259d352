"""A background that stands for what was cut away: fitted to pictures, in closed form.

After a cut in the head, a softmax hands the dropped classes' probability to the kept ones. Scores
would stay as they were if the background's logit were ``t = logsumexp(background, dropped)`` of the
original, and kept logits what they are. That is no linear function of a head's features, so no row
of weights gives it exactly; the row that comes nearest in least squares is fitted here, for every
head and anchor.

::

    heads.py       a head as a linear map: places, features (patches of a Conv), rows of weights
    moments.py     weighted least squares with a ridge, streaming: moments first, solutions later
    background.py  which places count how much, which ridge, and how near the fit comes
    pictures.py    the pictures, read one by one as they are needed
    calibration.py what all this means for a cut: its map, its plan, its verdict

**Weights.** Nearly all places of a detector are empty, and there every cut does well. A place
counts by ``1 - p(background)`` of the original, as much as something is there, plus a little for
all, so that empty places stay empty. docs/fitted-background.md compares other weights.

**Ridge.** The row is sought as the background's own row plus a change, and the ridge holds the
change small. It is chosen on every fifth picture, which is held out meanwhile, by the squared error
of the kept scores; no change at all is among the choices.

**Memory** is bounded: nothing is kept of a picture but moments, ``(features + 1)²`` numbers for each
anchor. Where a place has more than ``MOST_FEATURES`` features (a 3x3 Conv over 1,024 channels has
9,216), the change is sought among combinations of the head's own rows instead, anchors times
classes of them; so it is for heads that are linear in a way not known here.
"""

from onnx_headcut.fitting.background import Errors, Fit, fit_background
from onnx_headcut.fitting.heads import MOST_FEATURES, Head, heads_of
from onnx_headcut.fitting.moments import Moments
from onnx_headcut.fitting.pictures import Picture, one_by_one

__all__ = [
    "MOST_FEATURES",
    "Errors",
    "Fit",
    "Head",
    "Moments",
    "Picture",
    "fit_background",
    "heads_of",
    "one_by_one",
]
