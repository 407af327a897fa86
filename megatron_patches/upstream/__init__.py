"""What is changed in megatron-core, checked against its source."""
