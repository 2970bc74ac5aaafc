"""Where the points of a sweep come from: grids, chance, Optuna."""
