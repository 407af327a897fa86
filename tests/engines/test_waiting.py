"""The simulation of waiting against two real engine processes, by counts of decode steps instead of seconds.

A decode step counts as one second in the simulation. Both are given the same distribution of lengths: the simulation draws from
those of the real responses. Real engines differ in how they share out prompts, and responses that continue over an update draw
other random numbers.
"""

from pathlib import Path

from ranks import run_ranks

SCRIPT = Path(__file__).with_name("waiting_ranks.py")


def test_decode_steps_and_idle_engines_are_foreseen():
    run_ranks(2, SCRIPT, timeout=240)
