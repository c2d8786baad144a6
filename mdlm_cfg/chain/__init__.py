"""The reverse chain, one step at a time: the denoiser's contract, guidance, policies, schedules, steps, corrections."""
