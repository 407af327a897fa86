"""Hugging Face model folders: made, checked, read and written."""
