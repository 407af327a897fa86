"""Rollout engines that the actor's ranks run or command: the native one on its own modules, or vLLM."""
