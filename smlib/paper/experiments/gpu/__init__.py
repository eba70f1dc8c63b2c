"""What a GPU is asked once there is one: `python -m smlib.paper.experiments.gpu`, `make gpu`, docs/gpu.md."""
