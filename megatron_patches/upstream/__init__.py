"""The changes to megatron-core, checked against its source."""
