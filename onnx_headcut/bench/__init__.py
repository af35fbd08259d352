"""How much faster a cut is: both models in processes of their own, run in turn.

The interleaving cancels what drifts (clock rates, other programs); ratios are of runs side by side.
"""
