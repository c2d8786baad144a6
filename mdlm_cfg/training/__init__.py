"""Training a denoiser: the only room that knows Lightning."""
