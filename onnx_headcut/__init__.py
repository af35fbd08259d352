"""Cut classes out of an exported ONNX detector's head, and prove that the rest says the same."""

__version__ = "0.1.0"
