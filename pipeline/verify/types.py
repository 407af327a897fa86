"""Defines the verdict and the conventions of grading. Standard library only, because every room imports this."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Form = Literal["evaluated", "equal"]
"""What an answer that equals the gold must be to be right: worked out, or nothing more."""
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict on one response."""

    correct: bool
    extracted: str | None
    """The final answer as the response writes it; None without one."""
    reason: str
    """Why: `equal` or `different` with the layer that decided, or what went wrong (`no final answer`, `hedged`,
    `not evaluated: product`, `time-out`, ...)."""
    layer: str = ""
    """extract, string, number, structure, symbolic, form (equal, and not paid), judge, or pool."""
    seconds: float = 0.0
    """Time that the grading took in its process."""
    unread: str = ""
    """The deepest layer that could not read one of the sides: `extract` (no final answer), `grammar` (no expression of
    ours), `symbolic` (not decided by latex2sympy2 and sympy either). Empty where all was read."""


@dataclass(frozen=True, slots=True)
class Conventions:
    """Where careful graders differ. The defaults are documented, with their reasons, in docs/verifier.md."""

    percent: Literal["either", "same", "value"] = "either"
    list_order: Literal["auto", "any", "fixed"] = "auto"
    units: Literal["ignore", "same"] = "ignore"
    degrees: Literal["either", "number"] = "either"
    digits: int = 4
    digits_entry: int = 2
    text_case: bool = False
    plain_response: bool = True
    hedge_distance: int = 200
    gold_list: Literal["any", "all", "text"] = "any"

    @classmethod
    def from_settings(cls, verify: Any) -> "Conventions":
        """Conventions from `settings.verify` (`pipeline.settings.serving.Verify`), by field name."""
        return cls(**{f.name: getattr(verify, f.name) for f in fields(cls) if hasattr(verify, f.name)})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


DEFAULT = Conventions()
