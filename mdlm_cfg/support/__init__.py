"""What all packages share: errors, seeds, progress, memory, atomic files, the configuration's schema."""
