"""Texts: what a terminal may show, HTML for notebooks, files that are read and begun with care, progress bars."""
