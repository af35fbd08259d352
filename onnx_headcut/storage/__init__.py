"""Files: read without what a cut does not need, write whole or not at all.

``wire`` walks a protobuf's bytes, ``lean`` leaves large weights in their file, ``atomic`` writes,
``external`` is about data beside the model.
"""
