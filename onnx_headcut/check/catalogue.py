"""The rules: what each demands, how bad a breach is, what mends it, and what it can be told.

To add one: a `Rule` here, and a function with ``@tests("its-id")`` in `artifact`, `meaning` or
`running` that yields what it finds. docs/check.md is generated from this list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnx_headcut.report.results import Topic

Kind = Literal["names", "count", "size", "text", "flag", "shapes"]


@dataclass(frozen=True)
class Parameter:
    """One key of a rule's table in a policy.

    ``kind``: names (a list of strings), count (a whole number), size (bytes: a whole number, or
    such as "5 MB"), text, flag (true or false), shapes (a table of lists of sizes).
    """

    name: str
    kind: Kind
    meaning: str
    default: object = None


@dataclass(frozen=True)
class Rule(Topic):
    """A rule of the catalogue; one that is not ``always`` needs a policy to be tested."""

    parameters: tuple[Parameter, ...] = ()
    always: bool = True
    why: str = ""


_RULES = (
    Rule(
        "readable", "error", "The file is an ONNX model.",
        "Export the model again; the file may be truncated or of another format.",
        why="Everything else needs it. A file that cannot be read ends with exit code 2.",
    ),
    Rule(
        "valid", "error", "The model passes onnx's own checker.",
        "Export the model again with current tools; the message says which node is wrong.",
        why="A runtime may refuse the model, or read it in another way than its maker.",
    ),
    Rule(
        "external-data", "error",
        "External data lie in the model's own folder, and are all there.",
        "Move the data files beside the model, and ship them with it.",
        why="A path that leads elsewhere breaks on the next machine, and may read other files.",
    ),
    Rule(
        "shapes", "error", "Declared shapes are those that the graph gives.",
        "Remove stale value_info (onnxruntime and onnx infer it anew), or cut with onnx-headcut.",
        why="An edit that forgets shapes leaves a model that compilers such as TensorRT misread.",
    ),
    Rule(
        "opset", "error", "The operator set is one that the target runs.",
        "Export for another opset, or convert with onnx.version_converter.",
        (Parameter("min", "count", "lowest opset of the default domain", 7),
         Parameter("max", "count", "highest; else the newest that the installed onnx knows")),
        why="Below opset 7, broadcasting means something else; above the known, nothing is sure.",
    ),
    Rule(
        "ir", "error", "The IR version is one that the target reads.",
        "Export with an onnx version for the target; the IR version is that of the file format.",
        (Parameter("min", "count", "lowest IR version", 3),
         Parameter("max", "count", "highest; else the newest that the installed onnx knows")),
        why="onnxruntime refuses files of an IR version that it does not know.",
    ),
    Rule(
        "head", "error", "There is a head: some layers may make class scores.",
        "Say which layers they are: heads in the policy's [model] table.",
        why="Without it, nothing can be said of classes. Not every ONNX model is a detector.",
    ),
    Rule(
        "head-clear", "warning",
        "Which columns are the classes is clear, and where they go can be followed to the outputs.",
        "Say what the graph does not: labels, heads or layout in the policy's [model] table.",
        why="Raw maps do not show what their columns are; rules of classes are not tested on them.",
    ),
    Rule(
        "head-finite", "error", "All weights of the head are finite numbers.",
        "Train or convert again; one NaN in a class's weights makes all its scores NaN.",
        why="A softmax spreads a single NaN to all classes.",
    ),
    Rule(
        "head-dead", "error", "No class of the head has weights that are all zero.",
        "Cut the class away, or train again: it gets the same score on every picture.",
        why="A converter that pads the classes leaves rows of zeros.",
    ),
    Rule(
        "head-duplicate", "error", "No two classes of the head have the same weights.",
        "Cut one of the two away: the model cannot tell them apart.",
        why="A wrong selection takes a row twice; all its detections then come in pairs.",
    ),
    Rule(
        "names", "warning", "Class names are in the metadata.",
        "Cut with --labels, or set the metadata entry 'names' to {0: 'person', …}.",
        (Parameter("labels", "text", "names from a preset or a file instead of the metadata"),),
        why="A model without names is only as good as the note that came with it.",
    ),
    Rule(
        "names-agree", "error", "Class names are as many as the tensors have classes.",
        "Write the names anew; after a cut by hand, the old list stays behind.",
        why="With a stale list every label is shifted, and nothing complains.",
    ),
    Rule(
        "classes", "error", "The classes are those that the policy says.",
        "Cut to the right classes, or correct the policy.",
        (Parameter("exactly", "names", "these classes and no others, whatever their order"),
         Parameter("at_least", "names", "these classes are among them"),
         Parameter("none_of", "names", "none of these classes is among them"),
         Parameter("ordered", "flag", "`exactly` gives the order, too", default=False)),
        always=False,
        why="The pipeline behind it reads classes by number or by name.",
    ),
    Rule(
        "recipe", "error", "The model says how it was made.",
        "Cut with onnx-headcut, which writes source, kept classes and version into the metadata.",
        (Parameter("required", "flag", "the metadata must have the record of a cut", default=False),
         Parameter("source", "text", "the model it was cut from: a path, relative to the policy"),
         Parameter("sha256", "text", "the sha256 of the model it was cut from"),
         Parameter("file", "text", "a recipe (headcut.toml) that makes this model, byte for byte: it "
                   "is cut again for the comparison; a path, relative to the policy")),
        why="What cannot be made again cannot be mended. A record that is there must be readable.",
    ),
    Rule(
        "domains", "error", "All operators are of allowed domains.",
        "Export without custom operators, or allow their domain.",
        (Parameter("allowed", "names", "domains beside the default one, such as com.microsoft"),),
        always=False,
        why="Custom domains need custom libraries on the target.",
    ),
    Rule(
        "ops", "error", "All operators are allowed ones.",
        "Export in another way, or allow the operator; `onnx-headcut inspect` shows the graph.",
        (Parameter("allowed", "names", "only these operators"),
         Parameter("denied", "names", "none of these operators")),
        always=False,
        why="Accelerators run a part of ONNX, and hand the rest to a slow path.",
    ),
    Rule(
        "file-size", "error", "The files are within their budget.",
        "Cut more classes, quantize, or raise the budget.",
        (Parameter("max", "size", "of the model and its external data together"),),
        always=False,
        why="Updates over the air and boot times follow the size.",
    ),
    Rule(
        "parameters", "error", "The parameters are within their budget.",
        "Cut more classes, take a smaller model, or raise the budget.",
        (Parameter("max", "count", "stored numbers in tensors of one axis and more"),),
        always=False,
        why="Memory on the target follows their number.",
    ),
    Rule(
        "runs", "error", "The model runs on inputs of its declared shapes, without NaN.",
        "Try `onnx-headcut doctor`; the message is onnxruntime's.",
        (Parameter("inputs", "count", "how many seeded synthetic inputs", 1),
         Parameter("provider", "text", "auto, cpu, cuda, …", "cpu")),
        always=False,
        why="Loading is not running: shapes of subgraphs and kernels show only then.",
    ),
    Rule(
        "providers", "error", "All nodes run on allowed providers.",
        "Export with operators that the provider has, or allow the provider that took them.",
        (Parameter("allowed", "names", "the model is run on the first; no node on others"),),
        always=False,
        why="A node that falls back to the CPU copies its tensors there and back on every picture.",
    ),
)  # fmt: skip

RULES = {rule.id: rule for rule in _RULES}
