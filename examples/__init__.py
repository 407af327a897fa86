"""Small things that run, to copy from. A package, so that import paths find it wherever the project is used."""
