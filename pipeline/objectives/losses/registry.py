"""The table of policy losses, and the import of a user's own loss."""

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
"""`(tokens, config) -> [T]` (or `[B, T]`): each token's policy-gradient loss. KL and entropy terms are added later."""
Bound = Tensor | float
Cuts = Callable[[Tensor, Tensor, Bound, Bound], tuple[Tensor, Tensor]]
"""`(ratio, advantages, eps_low, eps_high) -> (cut_low, cut_high)`, bool: tokens that a bound clips."""
Bounds = tuple[Tensor, Tensor]
"""(eps_low, eps_high), of one shape."""


def surrogate_cuts(ratio: Tensor, advantages: Tensor, eps_low: Bound, eps_high: Bound) -> tuple[Tensor, Tensor]:
    """Marks where the clipped surrogate is flat: bad tokens already made rarer, good tokens already made likelier."""
    return (advantages < 0) & (ratio < 1 - eps_low), (advantages > 0) & (ratio > 1 + eps_high)


def token_ratio(x: Tokens) -> Tensor:
    """rho, the ratio of each token."""
    return x.ratio


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A registered policy loss."""

    name: str
    function: TokenFunction
    separable: bool
    """A token's loss depends on no other token's log-prob or entropy; the fused head can then compute its gradient."""
    elastic: bool
    """Its bounds follow advantage and variance (alpha, beta). False: they are static; alpha and beta are ignored."""
    needs_signal: bool = False
    """A token whose advantage is 0 has loss and gradient 0, so an update may leave such sequences out."""
    needs_entropy: bool = True
    """It reads `Tokens.entropy`, so the policy head computes entropies during the update."""
    matched: bool = False
    """Its bounds are the mean of the elastic ones."""
    base_bounds: tuple[str, str] = ("eps_low", "eps_high")
    """Settings that hold its bounds before elasticity."""
    ratio: Callable[[Tokens], Tensor] = token_ratio
    """The ratio that its bounds clip."""
    cuts: Cuts = surrogate_cuts
    """Which tokens its bounds clip; for the metrics."""
    response_rule: Callable[[Tensor, Tensor, Tensor, Any], Bounds] | None = None
    """`(advantages, pass_rate, variance, config)` -> the bounds of responses, in place of elastic or static ones."""
    token_bounds: Callable[[Tokens, Any], Bounds] | None = None
    """`(tokens, config)` -> the bounds of tokens, from those of their responses."""
    minibatch_rule: Callable[[Tensor, Tensor, Any], tuple[float, float]] | None = None
    """`(ratio, advantages, config)` of all tokens of an optimizer step -> one pair of bounds for them. It costs a forward
    pass, which finds the ratios."""
    group_weight: Callable[[Tensor, Tensor, Any], Tensor] | None = None
    """`(pass_rate, confidence, config)` -> a factor on a group's advantages."""

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
    response_rule: Callable[[Tensor, Tensor, Tensor, Any], Bounds] | None = None,
    token_bounds: Callable[[Tokens, Any], Bounds] | None = None,
    minibatch_rule: Callable[[Tensor, Tensor, Any], tuple[float, float]] | None = None,
    group_weight: Callable[[Tensor, Tensor, Any], Tensor] | None = None,
) -> Callable[[TokenFunction], TokenFunction]:
    """Returns a decorator that registers a token function; the arguments are the fields of `Loss`.

    The decorator raises ValueError if another module has registered that name.
    """

    def add(function: TokenFunction) -> TokenFunction:
        if name in _LOSSES and _LOSSES[name].function.__module__ != function.__module__:
            raise ValueError(
                f"the policy loss {name!r} is already registered by {_LOSSES[name].function.__module__}; choose "
                "another name"
            )
        _LOSSES[name] = Loss(
            name=name, function=function, separable=separable, elastic=elastic, needs_signal=needs_signal,
            needs_entropy=needs_entropy, matched=matched, base_bounds=base_bounds, ratio=ratio, cuts=cuts,
            response_rule=response_rule, token_bounds=token_bounds, minibatch_rule=minibatch_rule,
            group_weight=group_weight,
        )  # fmt: skip
        return function

    return add


def names() -> list[str]:
    """The registered names, sorted."""
    return sorted(_LOSSES)


def get(name: str) -> Loss:
    """Looks a loss up by name. Raises UsageError with the nearest name if it is not registered."""
    if name in _LOSSES:
        return _LOSSES[name]
    near = difflib.get_close_matches(name, _LOSSES, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UsageError(
        f"algo.loss={name} is not a policy loss.{hint} Allowed: {', '.join(names())}. To use your own loss, set "
        "algo.import_path=path/to/file.py:function"
    )


def of(config: Any) -> Loss:
    """Finds the loss that `config` selects: the function at `import_path` if that is set, else the one named `loss`.

    Raises UsageError if there is no such loss, or if the function fails its trial (`trial.try_out`).
    """
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
    # An undecorated function says nothing about itself: separable=False is right for every loss.
    loss = next(registered, Loss(name=attribute, function=function, separable=False, elastic=True))
    try_out(loss.function, loss.separable, loss.needs_signal, f"algo.import_path={path}")
    return loss


def _module(name: str, path: str) -> ModuleType:
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        file = Path(name).expanduser()
        if not file.is_file():
            raise UsageError(f"algo.import_path={path}: there is no file {file.absolute()}; check the path")
        alias = f"custom_loss_{file.stem}"
        spec = importlib.util.spec_from_file_location(alias, file)
        if spec is None or spec.loader is None:
            raise UsageError(f"algo.import_path={path}: {file.absolute()} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[alias] = module  # dataclasses and pickling look a module up by name
        spec.loader.exec_module(module)
        return module
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"algo.import_path={path} cannot be imported: {type(error).__name__}: {error}") from error
