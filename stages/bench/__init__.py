"""Measurements: `stage=bench what=...`."""
