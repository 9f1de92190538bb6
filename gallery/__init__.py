"""Audits of a real pretrained model that anyone can run: ``make gallery``."""
