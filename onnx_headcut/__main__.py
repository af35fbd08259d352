"""``python -m onnx_headcut`` is the command line."""

from onnx_headcut.cli import main

raise SystemExit(main())
