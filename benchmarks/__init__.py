"""Benchmarks: ratios to what the mathematics needs, measured side by side in one run. Never absolute times."""
