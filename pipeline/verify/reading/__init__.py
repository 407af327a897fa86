"""Finds the answer in a response and reads it into a structure."""
