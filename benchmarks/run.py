"""Measure, and write RESULTS.md: ``python benchmarks/run.py [--only files,peers,...]``.

* files: `cut --no-validate` of a 143 MB SSD300 against bare `onnx.load` + `onnx.save`, whole
  processes in random turns; the same of a 2 GB model with external data, made on the fly.
* single: the same of one file of 1.9 GB, near the limit of a protobuf.
* peers: what a user would run instead (onnxslim, onnxsim, onnx-graphsurgeon), each a round trip of
  the same file, where it is installed: `pip install onnxslim onnxsim onnx-graphsurgeon` in an
  environment of its own, and name its interpreter with --peers PYTHON.
* help: `onnx-headcut --help`.
* recipe: a recipe of 20 variants of the shapes detector against 20 runs of `cut`, all validated; the
  files have to be the same.
* latency: original : cut : natively exported with the kept classes, and original + Gather, one
  thread each in one process, in random turns; the best of many counts.
* device: each cut proved on a device (--provider, cuda without it) and timed there against its
  original, by `make gpu`. Not among the parts that run by default; with --provider cpu it only prints.

Times in seconds of wall clock, the least of all turns (noise only adds), and memory as the peak
resident set in MB.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import os
import platform
import random
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import device
import numpy as np
import onnx
from latency import latencies
from onnx import TensorProto

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "models" / "exported"))
import skeleton  # noqa: E402

RESULTS = HERE / "RESULTS.md"
INTRO = "# Results\n\nMade by `python benchmarks/run.py`; its docstring says what is measured.\n\n"
SSD = "tv_ssd300_softmax_any_ts17"
LOAD_SAVE = "import sys, onnx; onnx.save(onnx.load(sys.argv[1]), sys.argv[2])"
PEERS = {
    "onnxslim": "import sys, onnxslim; onnxslim.slim(sys.argv[1], sys.argv[2])",
    "onnxsim": "import sys, onnx, onnxsim; "
    "onnx.save(onnxsim.simplify(onnx.load(sys.argv[1]))[0], sys.argv[2])",
    "onnx-graphsurgeon": "import sys, onnx, onnx_graphsurgeon as gs; "
    "onnx.save(gs.export_onnx(gs.import_onnx(onnx.load(sys.argv[1]))), sys.argv[2])",
}
NOISE = (
    "Where the cut is the native graph to the last bit (docs/support.md: *same graph*), a ratio of the "
    "two other\n"
    "than 1 is noise of this measurement, and shows how much of it there is in the others.\n\n"
)
DEVICE = (
    "Medians of runs in turn, from and to the host's memory; *max difference* to the masked original,\n"
    "*as deployed* to the same cut without TF32, both relative to the value.\n\n"
)
Row = tuple[str, ...]
_CUT = [sys.executable, "-m", "onnx_headcut", "cut"]


def cutter(*extra: str) -> list[str]:
    """Give the command line of a cut to a few classes; the files are appended."""
    return [sys.executable, "-m", "onnx_headcut", "cut", "--keep", "1,3-5", "--no-validate",
            "--force", *extra]  # fmt: skip


def measure(command: Sequence[str]) -> tuple[float, float]:
    """Run a process to its end; returns seconds and MB. Raises where it fails."""
    code = (
        "import os, resource, subprocess, sys, time\n"
        "start = time.perf_counter()\n"
        "code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode\n"
        "took = time.perf_counter() - start\n"
        "print(took, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3 * 1.024)\n"
        "sys.exit(code)"
    )
    os.sync()  # what others wrote is not this one's to wait for
    # an installed package has its bytecode, so let the first turn write that of the checkout
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=False, env=env
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    took, peak = done.stdout.split()[-2:]
    return float(took), float(peak)


def in_turns(commands: Mapping[str, Sequence[str]], turns: int) -> dict[str, tuple[float, float]]:
    """Run all in random order, ``turns`` times; gives the least time and the least peak of each."""
    order = [name for name in commands for _ in range(turns)]
    random.Random(0).shuffle(order)  # noqa: S311
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for name in order:
        try:
            found[name].append(measure(commands[name]))
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr)
    return {
        name: (min(t for t, _ in runs), min(m for _, m in runs))
        for name, runs in found.items() if runs
    }  # fmt: skip


def files(folder: Path, turns: int) -> list[Row]:
    """Compare a cut with load + save, in one file and with data beside it."""
    path, out = folder / "ssd.onnx", str(folder / "out.onnx")
    onnx.save(skeleton.load_pair(SSD)[0], path)
    size = path.stat().st_size / 1e6
    found = in_turns(
        {
            "onnx.load + onnx.save": [sys.executable, "-c", LOAD_SAVE, str(path), out],
            "onnx-headcut cut --no-validate": [*cutter("--output", out), str(path)],
        },
        turns,
    )
    rows = _relative(f"SSD300, {size:.0f} MB", found)
    big = make_big(folder / "big")
    beside, data = str(folder / "big" / "out.onnx"), (folder / "big" / "w").stat().st_size / 1e9
    (folder / "copy").mkdir()
    found = in_turns(
        {
            "onnx.load + onnx.save": [sys.executable, "-c", _BIG_LOAD_SAVE, str(big),
                                      str(folder / "copy" / "saved.onnx")],
            "cut, same folder": [*cutter("--output", beside), str(big)],
            "cut, another folder": [*cutter("--output", str(folder / "copy" / "out.onnx")),
                                    str(big)],
        },
        max(turns // 2, 1),
    )  # fmt: skip
    return rows + _relative(f"SSD300 with {data:.1f} GB beside it", found)


def single(folder: Path, turns: int) -> list[Row]:
    """Compare a cut with load + save of one file as large as a protobuf may be."""
    path, out = make_big(folder / "big", 1_750_000_000), str(folder / "out.onnx")
    one = folder / "one.onnx"
    code = "import sys, onnx; onnx.save(onnx.load(sys.argv[1]), sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(path), str(one)], check=True)
    (folder / "big" / "w").unlink()
    commands = {
        "onnx.load + onnx.save": [sys.executable, "-c", LOAD_SAVE, str(one), out],
        "onnx-headcut cut --no-validate": [*cutter("--output", out), str(one)],
    }
    return _relative(f"SSD300, {one.stat().st_size / 1e9:.1f} GB", in_turns(commands, turns))


_BIG_LOAD_SAVE = (
    "import os, sys, onnx; "
    "os.path.exists(sys.argv[2] + '.w') and os.remove(sys.argv[2] + '.w'); "
    "onnx.save(onnx.load(sys.argv[1]), sys.argv[2], save_as_external_data=True, "
    "location=os.path.basename(sys.argv[2]) + '.w')"
)


def make_big(folder: Path, size: int = 1_900_000_000) -> Path:
    """Save the SSD with its weights beside it, and a layer of ``size`` bytes."""
    folder.mkdir()
    model = skeleton.load_pair(SSD)[0]
    path = folder / "big.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w")
    model = onnx.load(path, load_external_data=False)
    rows = size // 4000
    data = folder / "w"
    start = data.stat().st_size
    with data.open("ab") as file:
        block = np.random.default_rng(0).normal(size=(1000, 1000)).astype(np.float32).tobytes()
        for _ in range(rows // 1000):
            file.write(block)
    table = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[rows // 1000 * 1000, 1000])
    table.data_location = TensorProto.EXTERNAL
    place = {"location": "w", "offset": start, "length": data.stat().st_size - start}
    for key, value in place.items():
        table.external_data.add(key=key, value=str(value))
    row = onnx.numpy_helper.from_array(np.array(7), "row")
    model.graph.initializer.extend([table, row])
    model.graph.node.append(onnx.helper.make_node("Gather", ["table", "row"], ["seventh"]))
    made = onnx.helper.make_tensor_value_info("seventh", TensorProto.FLOAT, [1000])
    model.graph.output.append(made)
    onnx.save(model, path)
    return path


def _relative(what: str, found: Mapping[str, tuple[float, float]]) -> list[Row]:
    time0, peak0 = next(iter(found.values()))
    return [
        (what if k == 0 else "", name, f"{t:.2f}", f"{t / time0:.2f}", f"{m:.0f}", f"{m / peak0:.2f}")
        for k, (name, (t, m)) in enumerate(found.items())
    ]


def peers(folder: Path, python: str, turns: int) -> list[Row]:
    """Compare with round trips of tools that a user would pick."""
    path, out = folder / "peers.onnx", str(folder / "peers-out.onnx")
    onnx.save(skeleton.load_pair(SSD)[0], path)
    commands = {"onnx.load + onnx.save": [sys.executable, "-c", LOAD_SAVE, str(path), out],
                "onnx-headcut cut --no-validate": [*cutter("--output", out), str(path)]}  # fmt: skip
    commands |= {name: [python, "-c", code, str(path), out] for name, code in PEERS.items()}
    return _relative("SSD300", in_turns(commands, turns))


_ALL = (
    "import shlex, subprocess, sys\n"
    "for line in open(sys.argv[1]).read().splitlines():\n"
    "    subprocess.run(shlex.split(line), stdout=subprocess.DEVNULL, check=True)"
)
"""Runs the command lines of a file, one after the other."""


def cpu_of(command: Sequence[str]) -> tuple[float, float]:
    """Run a process to its end; returns seconds of wall clock and of CPU, all children's together."""
    code = (
        "import os, subprocess, sys, time\n"
        "start = time.perf_counter()\n"
        "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)\n"
        "times = os.times()\n"
        "print(time.perf_counter() - start, times.children_user + times.children_system)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True, check=True
    )
    took, cpu = map(float, done.stdout.split()[-2:])
    return took, cpu


def recipes(folder: Path, turns: int) -> list[Row]:
    """Compare a recipe with as many single runs; the least of all turns."""
    model = HERE.parent / "models" / "shapes" / "ssd_shapes_ts_softmax.onnx"
    triples = itertools.islice(itertools.combinations(range(1, 15), 3), 20)
    text = [f'source = "{model}"', f'output = "{folder}/{{variant}}.onnx"']
    lines = []
    for k, triple in enumerate(triples):
        keep = ",".join(map(str, triple))
        text.append(f'[variants.v{k}]\nkeep = "{keep}"')
        lines.append(shlex.join([*_CUT, str(model), "--keep", keep, "--output",
                                 f"{folder}/s{k}.onnx", "--force"]))  # fmt: skip
    (folder / "headcut.toml").write_text("\n".join(text))
    (folder / "lines").write_text("\n".join(lines))
    recipe = [*_CUT, "--recipe", str(folder / "headcut.toml"), "--force"]
    commands = {
        f"{len(lines)} runs, one after the other": [sys.executable, "-c", _ALL, str(folder / "lines")],
        "the recipe, --jobs 1": [*recipe, "--jobs", "1"],
        "the recipe": recipe,
    }
    found = {
        name: tuple(map(min, zip(*(cpu_of(command) for _ in range(turns)), strict=True)))
        for name, command in commands.items()
    }
    for k in range(len(lines)):
        assert (folder / f"v{k}.onnx").read_bytes() == (folder / f"s{k}.onnx").read_bytes()
    wall, cpu = next(iter(found.values()))
    return [
        (name, f"{t:.1f}", f"{t / wall:.2f}", f"{c:.1f}", f"{c / cpu:.2f}")
        for name, (t, c) in found.items()
    ]


def show_help(turns: int) -> list[Row]:
    """Time the command line's help, and the interpreter alone."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "onnx-headcut --help": [sys.executable, "-m", "onnx_headcut", "--help"],
    }
    return _relative("", in_turns(commands, turns * 3))


def table(title: str, head: Row, rows: Sequence[Row]) -> str:
    """Write rows as Markdown."""
    lines = [f"## {title}", "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), "", ""])


def machine() -> str:
    """Say on what this runs."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    versions = f"Python {platform.python_version()}, onnx {onnx.__version__}"
    load = f" (load {os.getloadavg()[0]:.1f})" if hasattr(os, "getloadavg") else ""
    return f"{name}, {os.cpu_count()} cores{load}, {platform.system()}, {versions}"


def main() -> None:
    """Run what is asked for; parts that are left out keep their last results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--only", default="files,single,peers,recipe,help,latency")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10, help="for each pair's latency")
    parser.add_argument("--provider", default="cuda", help="for device")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    options = parser.parse_args()
    head = ("what", "by", "seconds", "relative", "peak MB", "relative")
    parts: dict[str, Any] = {
        "files": lambda to: table("Files", head, files(to, options.turns)),
        "single": lambda to: table("One file of 1.9 GB", head, single(to, max(options.turns // 2, 1))),
        "peers": lambda to: table("Peers", head, peers(to, options.peers, max(options.turns // 3, 1))),
        "recipe": lambda to: table(
            "Recipe of 20 variants of the shapes detector, validated",
            ("by", "seconds", "relative", "CPU seconds", "relative"),
            recipes(to, max(options.turns // 3, 1)),
        ),
        "help": lambda _: table("--help", head, show_help(options.turns)),
        "latency": lambda _: table(
            "Latency, one thread on the CPU (ms; a ratio is to the original)",
            ("pair", "original", "cut", "native", "original + Gather", "cut : original",
             "cut : native"), latencies(options.seconds)) + NOISE,
        "device": lambda to: table(
            "On a device", device.HEAD, [*device.rows(to, options.provider, options.seconds)]
        ) + DEVICE + f"{device.named(options.provider)}; ",
    }  # fmt: skip
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
            text = parts[name](Path(folder))
        print(text)
        if name != "device" or options.provider != "cpu":  # that is a rehearsal
            keep(f"{text}{dt.datetime.now(dt.UTC).date()}; {machine()}\n\n")


def keep(section: str) -> None:
    """Write a section into RESULTS.md, in the place of the one with its heading."""
    old = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else INTRO
    sections = re.split("^(?=## )", old.rstrip("\n") + "\n\n", flags=re.MULTILINE)
    heading = section.partition("\n")[0]
    places = [k for k, each in enumerate(sections) if each.startswith(f"{heading}\n")]
    if places:
        sections[places[0]] = section
    else:
        sections.append(section)
    RESULTS.write_text("".join(sections).rstrip("\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
