"""One branch a class, unrolled: who picks the class, and how its label is written."""

from __future__ import annotations

from patterns.frame import CLASSES, FLAT, OUTPUTS, Pattern, changed, front, graph, pattern


def branches(entry: str, label: str, *, tables: str = "", fill: str = "int64") -> Pattern:
    """Branches as torchvision writes them; ``entry`` picks a class, ``label`` fills its labels."""
    weights, body, heads = front()
    body += FLAT + "\n      threshold = Constant <value = float {0.1}> ()"
    for k in range(1, CLASSES):
        body += entry.replace("@", str(k))
        body += """
      m_@ = Greater (s_@, threshold)
      nz_@ = NonZero (m_@)
      at_@ = Transpose <perm = [1, 0]> (nz_@)
      v_@ = GatherND (s_@, at_@)
      b_@ = GatherND (rect, at_@)
      n_@ = Shape (v_@)
      five_@ = Constant <value = int64[1] {5}> ()
      least_@ = Min (n_@, five_@)
      tv_@, ti_@ = TopK (v_@, least_@)
      tb_@ = Gather (b_@, ti_@)
      size_@ = Shape (tv_@)""".replace("@", str(k))
        body += label.replace("@", str(k))
    for name, part in (("labels", "l"), ("scores", "tv"), ("boxes", "tb")):
        parts = ", ".join(f"{part}_{k}" for k in range(1, CLASSES))
        body += f"\n      {name} = Concat <axis = 0> ({parts})"
    outputs = OUTPUTS.replace("int64[K] labels", f"{fill}[K] labels")
    return Pattern(graph(outputs, weights + tables, body), heads, some=3)


GATHER = """
      i_@ = Constant <value = int64 {@}> ()
      s_@ = Gather <axis = 1> (table, i_@)"""
SLICE = """
      from_@ = Constant <value = int64[1] {@}> ()
      one_@ = Constant <value = int64[1] {1}> ()
      to_@ = Add (from_@, one_@)
      wide_@ = Slice (table, from_@, to_@, one_@)
      s_@ = Squeeze (wide_@, one_@)"""
SHAPED = """
      l_@ = ConstantOfShape <value = int64[1] {@}> (size_@)"""


@pattern
def branches_with_constant_of_shape() -> Pattern:
    """Gather per class; labels from ConstantOfShape values"""
    return branches(GATHER, SHAPED)


@pattern
def branches_by_slice() -> Pattern:
    """Slice per class"""
    return branches(SLICE, SHAPED)


@pattern
def branches_by_split() -> Pattern:
    """Split into single classes (unbind), the background's read by none"""
    parts = ", ".join(f"wide_{k}" for k in range(CLASSES))
    split = f"""
      {parts} = Split <axis = 1> (table, ones)
      threshold = """
    found = branches(
        """
      axis_@ = Constant <value = int64[1] {1}> ()
      s_@ = Squeeze (wide_@, axis_@)""",
        SHAPED,
        tables=f", int64[{CLASSES}] ones = {{{','.join('1' * CLASSES)}}}",
    )
    return changed(found, ("\n      threshold = ", split))


@pattern
def branches_with_expand() -> Pattern:
    """Labels from Expand of a constant"""
    return branches(
        GATHER,
        """
      k_@ = Constant <value = int64 {@}> ()
      l_@ = Expand (k_@, size_@)""",
    )


@pattern
def branches_with_added_number() -> Pattern:
    """Labels from zeros and an added `k.0`"""
    return branches(
        GATHER,
        """
      k_@ = Constant <value = float {@.0}> ()
      zeros_@ = ConstantOfShape (size_@)
      l_@ = Add (zeros_@, k_@)""",
        fill="float",
    )


@pattern
def branches_with_ones_times_number() -> Pattern:
    """Labels from ones times `k`, cast to integers"""
    return branches(
        GATHER,
        """
      k_@ = Constant <value = float {@.0}> ()
      ones_@ = ConstantOfShape <value = float[1] {1.0}> (size_@)
      numbers_@ = Mul (ones_@, k_@)
      l_@ = Cast <to = 7> (numbers_@)""",
    )


@pattern
def branches_with_negative_number_taken_off() -> Pattern:
    """Labels from zeros less a stored `-k`"""
    return branches(
        GATHER,
        """
      k_@ = Constant <value = int64 {-@}> ()
      zeros_@ = ConstantOfShape <value = int64[1] {0}> (size_@)
      l_@ = Sub (zeros_@, k_@)""",
    )


@pattern
def branches_with_number_added_to_nothing() -> Pattern:
    """Labels from `k` and what was found times zero"""
    return branches(
        GATHER,
        """
      k_@ = Constant <value = float {@.0}> ()
      nought_@ = Constant <value = float {0.0}> ()
      zeros_@ = Mul (tv_@, nought_@)
      l_@ = Add (zeros_@, k_@)""",
        fill="float",
    )


@pattern
def branches_with_a_number_left_out() -> Pattern:
    """Labels from zeros and an added `k.0`, but for one branch that is filled with it (onnxslim)"""
    added = "l_1 = Add (zeros_1, k_1)"
    filled = "l_1 = ConstantOfShape <value = float[1] {1.0}> (size_1)"
    return changed(branches_with_added_number(), (added, filled))


@pattern
def branches_with_a_factor_left_out() -> Pattern:
    """Labels from `k` times ones, but for the branch whose factor is 1 (TensorFlow's optimiser)"""
    found = branches(
        GATHER,
        """
      k_@ = Constant <value = int64 {@}> ()
      unit_@ = Constant <value = int64[1] {1}> ()
      ones_@ = Expand (unit_@, size_@)
      l_@ = Mul (k_@, ones_@)""",
    )
    return changed(found, ("l_1 = Mul (k_1, ones_1)", "l_1 = Identity (ones_1)"))


@pattern
def branches_with_index_table() -> Pattern:
    """A table that is at once column index and emitted id"""
    found = branches(
        """
      place_@ = Constant <value = int64 {#}> ()
      c_@ = Gather <axis = 0> (numbers, place_@)
      s_@ = Gather <axis = 1> (table, c_@)""",
        """
      l_@ = Expand (c_@, size_@)""",
        tables=", int64[5] numbers = {1,2,3,4,5}",
    )
    text = found.text
    for k in range(1, CLASSES):
        text = text.replace(
            f"place_{k} = Constant <value = int64 {{#}}>",
            f"place_{k} = Constant <value = int64 {{{k - 1}}}>",
        )
    return Pattern(text, found.heads, some=3)


@pattern
def branches_with_folded_labels() -> Pattern:
    """One folded constant of slots x class ids"""
    weights, body, heads = front()
    slots = [k for k in range(1, CLASSES) for _ in range(3)]
    weights += f", int64[{len(slots)}] folded = {{{','.join(map(str, slots))}}}"
    weights += ", int64[1] three = {3}, int64[1] eight = {8}"
    body += FLAT
    for k in range(1, CLASSES):
        body += (GATHER + """
      tv_@, ti_@ = TopK (s_@, three)
      tb_@ = Gather (rect, ti_@)""").replace("@", str(k))  # fmt: skip
    body += f"""
      all_scores = Concat <axis = 0> ({", ".join(f"tv_{k}" for k in range(1, CLASSES))})
      all_boxes = Concat <axis = 0> ({", ".join(f"tb_{k}" for k in range(1, CLASSES))})
      scores, best = TopK (all_scores, eight)
      labels = Gather (folded, best)
      boxes = Gather (all_boxes, best)"""
    return Pattern(graph(OUTPUTS, weights, body), heads, some=2)


@pattern
def branches_of_row_tables() -> Pattern:
    """A table of rows [label, score, box] for each class"""
    weights, body, heads = front()
    weights += ", int64[1] last = {1}, int64[1] three = {3}"
    body += FLAT
    for k in range(1, CLASSES):
        body += (GATHER + """
      tv_@, ti_@ = TopK (s_@, three)
      tb_@ = Gather (rect, ti_@)
      score_@ = Unsqueeze (tv_@, last)
      size_@ = Shape (score_@)
      id_@ = ConstantOfShape <value = float[1] {@.0}> (size_@)
      rows_@ = Concat <axis = 1> (id_@, score_@, tb_@)""").replace("@", str(k))  # fmt: skip
    body += f"""
      rows = Concat <axis = 0> ({", ".join(f"rows_{k}" for k in range(1, CLASSES))})"""
    return Pattern(graph("float[K,6] rows", weights, body), heads, read=lambda o: o[0], some=5)
