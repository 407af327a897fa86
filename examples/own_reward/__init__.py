"""A reward by import path: `examples.own_reward.brief:brief`."""
