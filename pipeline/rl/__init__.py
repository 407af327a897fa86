"""The parts of an RL step that know neither Megatron nor the rollout engine."""
