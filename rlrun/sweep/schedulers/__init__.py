"""What becomes of running trials: early stopping and population-based training."""
