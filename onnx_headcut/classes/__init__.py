"""What the columns of a class axis mean: their names, the background, and which of them to keep.

::

    names.py        names from presets, label files and a model's metadata, each with its source
    background.py   Classes: names and background of the columns, from all evidence there is
    spec.py         SPEC, the words with which a person says what to keep
    keep.py         SPEC with the classes known: which columns, and what the new ones are made of
    mapping.py      ClassMap: what each column of the cut model is made of
    record.py       what a cut model's metadata says of its cut, written and read

Evidence comes in and a sentence goes out with every answer: tables and reports say why.
"""

from onnx_headcut.classes.background import Classes, Evidence, resolve
from onnx_headcut.classes.keep import parse_keep, parse_map
from onnx_headcut.classes.mapping import ClassMap, Given, GivenRows, Merge, Row, Start
from onnx_headcut.classes.names import PRESETS, LabelsLike, Names, load_names
from onnx_headcut.classes.record import CutRecord, cut_metadata, find_names, read_cut_metadata

__all__ = [
    "PRESETS",
    "ClassMap",
    "Classes",
    "CutRecord",
    "Evidence",
    "Given",
    "GivenRows",
    "LabelsLike",
    "Merge",
    "Names",
    "Row",
    "Start",
    "cut_metadata",
    "find_names",
    "load_names",
    "parse_keep",
    "parse_map",
    "read_cut_metadata",
    "resolve",
]
