"""From the heads to the outputs: what each node has to become for a cut, as a plan of edits.

The ops themselves are in `onnx_headcut.rules`.
"""
