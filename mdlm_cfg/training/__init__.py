"""Training a denoiser with Lightning: objectives, runs, checkpoints, data loaders."""
