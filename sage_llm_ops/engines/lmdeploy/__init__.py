"""LMDeploy as a worker: its PyTorch engine or TurboMind. Nothing is imported before `start`."""
