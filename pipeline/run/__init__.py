"""From a command line to running processes: configuration, plan, launch, supervision. Never imports torch."""
