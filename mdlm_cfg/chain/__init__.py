"""The reverse chain, one step at a time: the denoiser's contract, guidance, schedules, steps."""
