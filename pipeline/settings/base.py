"""The base of every settings section: typed, closed, and immutable once resolved."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of the configuration.

    Unknown keys are errors, because a misspelled `algo.apha=0.3` that is silently ignored costs a cluster-week. So are
    NaN and infinity, which pass every comparison that they should fail.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )
