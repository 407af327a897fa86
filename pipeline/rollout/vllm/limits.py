"""What an engine can be asked for, by the settings; every rank finds the same, so that none waits for one that raised."""

from pipeline.errors import InputError, UsageError
from pipeline.rollout.interface import Prompt, Sampling
from pipeline.settings import Settings


def row_budget(settings: Settings) -> int:
    """Longest prompt and response together."""
    rollout = settings.rollout
    return min(rollout.max_prompt_tokens + rollout.max_new_tokens, settings.model.max_position_embeddings)


def check_requests(settings: Settings, prompts: list[Prompt], sampling: Sampling) -> None:
    """Raises:
    InputError: an empty prompt, or one longer than rollout.max_prompt_tokens.
    UsageError: no tokens allowed, or prompt and response exceed what the engine was built for.
    """
    longest, budget = settings.rollout.max_prompt_tokens, row_budget(settings)
    if sampling.max_new_tokens < 1:
        raise UsageError(f"rollout.max_new_tokens={sampling.max_new_tokens}: at least 1 is needed")
    for prompt in prompts:
        length = len(prompt.token_ids)
        if not length:
            raise InputError(f"prompt {prompt.id!r} has no tokens; remove its problem or give it a text")
        if length > longest:
            raise InputError(
                f"prompt {prompt.id!r} has {length} tokens, rollout.max_prompt_tokens allows {longest}: raise it, or drop "
                "the problem (data.clean.max_problem_chars)"
            )
        if length + sampling.max_new_tokens > budget:
            raise UsageError(
                f"prompt {prompt.id!r} has {length} tokens and {sampling.max_new_tokens} new ones are asked for; vLLM was "
                f"built for {budget} together (rollout.max_prompt_tokens + rollout.max_new_tokens, at most the model's "
                "context). Raise one of them, or ask for less"
            )
