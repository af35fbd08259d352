"""Which nodes make the class scores, and which of their channels is which class.

From candidate heads forward to where scores end (`provenance`), there to the columns that are the
classes (`choice`), and from these back to the heads (`pull`).
"""
