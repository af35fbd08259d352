"""A model as a graph: read, checked, put in order, and what is known of each of its values.

Nothing in here knows what classes are; a `scope` keeps the marks of those who do.
"""
