"""The calls of other libraries in docs/coming-from.md, and ours: the same numbers."""
