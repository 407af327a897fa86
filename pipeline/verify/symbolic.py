"""The last layer: latex2sympy2 and sympy. Nothing is imported before `load`."""


def load() -> None:
    import sympy  # noqa: F401


def equal(left: str, right: str) -> bool | None:
    return None
