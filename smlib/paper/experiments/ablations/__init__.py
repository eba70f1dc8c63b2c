"""Beyond the paper: sweeps, rival methods, regimes, direct matching and its confirmation."""
