"""Compares two structures: exactly, by value, by algebra, and symbolically as the last resort."""
