"""What every function here takes as `config`: the `algo` section, or anything that looks like part of it."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from pipeline.settings import Algo

_DEFAULTS = Algo()


def as_config(config: Any = None) -> Any:
    """`config` with every field of `pipeline.settings.Algo`.

    An Algo is returned as it is; a mapping is checked like one (unknown keys are errors); of any other object, missing
    attributes take Algo's defaults; None is all defaults.
    """
    if config is None:
        return _DEFAULTS
    if isinstance(config, Algo):
        return config
    if isinstance(config, Mapping):
        return Algo(**config)
    missing = {name: getattr(_DEFAULTS, name) for name in Algo.model_fields if not hasattr(config, name)}
    if not missing:
        return config
    present = {name: getattr(config, name) for name in Algo.model_fields if name not in missing}
    return SimpleNamespace(**missing, **present)
