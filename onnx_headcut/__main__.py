"""``python -m onnx_headcut`` is the command line; so is the script ``onnx-headcut``."""

import sys


def main() -> int:
    """Run the command line; Ctrl-C while it is being imported ends as it does later."""
    try:
        from onnx_headcut.cli import main as command_line  # noqa: PLC0415
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        return 130
    return command_line()


if __name__ == "__main__":
    raise SystemExit(main())
