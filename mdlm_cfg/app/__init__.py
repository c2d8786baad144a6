"""The commands: configuration, objects of the user's own, error messages. The only package that uses hydra."""
