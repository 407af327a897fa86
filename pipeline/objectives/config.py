"""The `config` argument of every function here: the `algo` section, or an object with some of its fields."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from pipeline.settings import Algo

_DEFAULTS = Algo()


def as_config(config: Any = None) -> Any:
    """Completes `config` to every field of `pipeline.settings.Algo`.

    An Algo is returned unchanged. A mapping becomes an Algo, so unknown keys are errors (pydantic's ValidationError, a
    ValueError). Any other object gets Algo's defaults for the attributes that it lacks. None means all defaults.
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
