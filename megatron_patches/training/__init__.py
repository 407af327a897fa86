"""The actor: micro-batches, the policy loss inside Megatron's schedule, and the optimizer."""
