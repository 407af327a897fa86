"""Rollout engines on the ranks of the actor: its own modules, or vLLM."""
