"""Rehearsal of one rank of a job without its devices: the project's own code on tensors that have shapes and no numbers.

`python -m megatron_patches.rehearsal <config.yaml> <rank> <result.json>` runs in a process by itself, because the stand-ins
for devices and ranks must never meet a real run. `pipeline.run.rehearsal` starts it.
"""
