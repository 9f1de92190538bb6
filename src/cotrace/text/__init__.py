"""Texts: what a terminal may show, HTML for notebooks, JSON files that are read with care."""
