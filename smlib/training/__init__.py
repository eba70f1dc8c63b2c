"""Algorithm 1, its rollouts and replay buffer, and what a run needs around it: checks, checkpoints, metrics."""
