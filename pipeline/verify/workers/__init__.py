"""Grades in processes that can be killed."""
