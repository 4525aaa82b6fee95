"""Training: resolved hyperparameters, batches, and the loop."""
