"""Modules that every room may import and that import none: errors, files, processes, waiting."""
