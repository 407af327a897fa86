"""Scripts that the interpreters of other environments run; they import nothing of this project."""
