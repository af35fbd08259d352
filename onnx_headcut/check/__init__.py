"""Checks of model files for CI: rules, a policy that chooses them, and what they found.

The catalogue (`catalogue`) and the policy (`policy`) import nothing heavy; the tests behind the
rules are loaded by `run.check` when they are first needed.
"""
