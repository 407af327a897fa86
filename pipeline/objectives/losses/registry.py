"""The table of policy losses, and the way in for one of the user's own."""

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from pipeline.common.errors import UsageError
from pipeline.objectives.losses.trial import try_out
from pipeline.objectives.tokens import Tokens

TokenFunction = Callable[[Tokens, Any], Tensor]
"""`(tokens, config) -> [T]` (or `[B, T]`): each token's policy-gradient loss, to which the other terms are added."""
Bound = Tensor | float
Cuts = Callable[[Tensor, Tensor, Bound, Bound], tuple[Tensor, Tensor]]
"""`(ratio, advantages, eps_low, eps_high) -> (cut_low, cut_high)`, bool: tokens that an edge of the region cuts."""


def surrogate_cuts(ratio: Tensor, advantages: Tensor, eps_low: Bound, eps_high: Bound) -> tuple[Tensor, Tensor]:
    """Where the clipped surrogate is flat: a bad token already made rarer, a good one already made likelier."""
    return (advantages < 0) & (ratio < 1 - eps_low), (advantages > 0) & (ratio > 1 + eps_high)


def token_ratio(x: Tokens) -> Tensor:
    return x.ratio


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A registered policy loss."""

    name: str
    function: TokenFunction
    separable: bool
    """A token's loss depends on no other token's log-prob or entropy, so a fused head may form its gradient alone."""
    elastic: bool
    """Its bounds follow advantage and variance (alpha, beta); otherwise they are static whatever alpha and beta say."""
    needs_signal: bool = False
    """A token whose advantage is 0 has loss and gradient 0, so the update may leave such sequences out."""
    needs_entropy: bool = True
    """It reads `Tokens.entropy`, so the policy head works it out during the update."""
    matched: bool = False
    """Its bounds are the mean of the elastic ones."""
    base_bounds: tuple[str, str] = ("eps_low", "eps_high")
    """Settings that hold its bounds before elasticity."""
    ratio: Callable[[Tokens], Tensor] = token_ratio
    """What it holds within its bounds."""
    cuts: Cuts = surrogate_cuts
    """Which tokens its bounds cut; for the metrics."""

    def __call__(self, tokens: Tokens, config: Any) -> Tensor:
        return self.function(tokens, config)


_LOSSES: dict[str, Loss] = {}


def register(
    name: str,
    *,
    separable: bool = False,
    elastic: bool = True,
    needs_signal: bool = False,
    needs_entropy: bool = True,
    matched: bool = False,
    base_bounds: tuple[str, str] = ("eps_low", "eps_high"),
    ratio: Callable[[Tokens], Tensor] = token_ratio,
    cuts: Cuts = surrogate_cuts,
) -> Callable[[TokenFunction], TokenFunction]:
    """Decorator that puts a token function into the table; the fields are those of `Loss`."""

    def add(function: TokenFunction) -> TokenFunction:
        if name in _LOSSES and _LOSSES[name].function.__module__ != function.__module__:
            raise ValueError(f"there is a policy loss {name!r} already; take another name")
        _LOSSES[name] = Loss(
            name=name, function=function, separable=separable, elastic=elastic, needs_signal=needs_signal,
            needs_entropy=needs_entropy, matched=matched, base_bounds=base_bounds, ratio=ratio, cuts=cuts,
        )  # fmt: skip
        return function

    return add


def names() -> list[str]:
    return sorted(_LOSSES)


def get(name: str) -> Loss:
    """The loss of that name. Raises UsageError where there is none, with the nearest one that there is."""
    if name in _LOSSES:
        return _LOSSES[name]
    near = difflib.get_close_matches(name, _LOSSES, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UsageError(
        f"algo.loss={name} is no policy loss.{hint} Allowed: {', '.join(names())}; for one of your own set "
        "algo.import_path=path/to/file.py:function"
    )


def of(config: Any) -> Loss:
    """The loss that `config` asks for: the function behind `import_path` where that is set, else that named `loss`."""
    return _imported(config.import_path) if config.import_path else get(config.loss)


@lru_cache(maxsize=16)
def _imported(path: str) -> Loss:
    module_name, _, attribute = path.rpartition(":")
    if not module_name or not attribute:
        raise UsageError(f"algo.import_path={path} must read path/to/file.py:function or package.module:function")
    function = getattr(_module(module_name, path), attribute, None)
    if not callable(function):
        raise UsageError(f"algo.import_path={path}: {module_name} has no function {attribute!r}")
    registered = (loss for loss in _LOSSES.values() if loss.function is function)
    # Not decorated: nothing is known about it, so the mode that is right for every loss is taken.
    loss = next(registered, Loss(name=attribute, function=function, separable=False, elastic=True))
    try_out(loss.function, loss.separable, loss.needs_signal, f"algo.import_path={path}")
    return loss


def _module(name: str, path: str) -> ModuleType:
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        file = Path(name).expanduser()
        if not file.is_file():
            raise UsageError(f"algo.import_path={path}: there is no file {file.absolute()}")
        alias = f"custom_loss_{file.stem}"
        spec = importlib.util.spec_from_file_location(alias, file)
        if spec is None or spec.loader is None:
            raise UsageError(f"algo.import_path={path}: {file.absolute()} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[alias] = module  # dataclasses and pickling look a module up by name
        spec.loader.exec_module(module)
        return module
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"algo.import_path={path} cannot be imported: {type(error).__name__}: {error}") from error
