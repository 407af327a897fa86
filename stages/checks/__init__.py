"""What `stage=doctor` checks beyond the machine itself: the GPU path, and the nodes of a cluster."""
