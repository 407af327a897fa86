"""Comparing algorithms over paired seeds: the runs, their figures, what follows from them, and the page."""
