"""Times the engine beside TRL, Liger and Unsloth on one GPU: `make bench-gpu`."""
