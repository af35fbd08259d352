"""Drift: what a cut changes in meaning on real pictures, apart from whether it is right.

A softmax over fewer classes raises the scores of the rest; a top-k with fewer rivals lets others
in; and where an object of a dropped class is, a kept class may answer. None of that is a mistake,
and all of it matters to whoever deploys the cut.
"""
