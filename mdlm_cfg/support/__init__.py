"""What all packages share: errors, seeds, progress, memory, files written whole, the configuration's schema."""
