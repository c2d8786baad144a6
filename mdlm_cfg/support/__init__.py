"""What every package uses: errors, seeds, progress, files written whole, what the machine does fast."""
