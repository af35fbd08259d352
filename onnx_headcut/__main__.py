"""``python -m onnx_headcut`` is the command line; so is the script ``onnx-headcut``."""

import gc
import os
import sys


def main() -> int:
    """Run the command line; Ctrl-C while it is being imported ends as it does later."""
    if not any(a.startswith("--fit-background") for a in sys.argv):
        # numpy's threads for products of large matrices cost more to start than all others here save
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(200_000)  # next to nothing that is imported is garbage, and looking takes time
    try:
        from onnx_headcut.cli import main as command_line  # noqa: PLC0415
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        return 130
    try:
        return command_line()
    finally:
        gc.freeze()  # all of it goes with the process: the interpreter need not look through it


if __name__ == "__main__":
    raise SystemExit(main())
