"""The commands: the only package that uses hydra."""
