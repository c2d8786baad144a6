"""Training a denoiser: the only package that uses Lightning."""
