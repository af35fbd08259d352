"""The edits that a plan consists of, and making them in the protobuf."""
