"""Readout: what a set does. What its members read and write, where they act, and who feeds whom."""
