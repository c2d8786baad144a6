"""What every room uses: errors, seeds, progress, files written whole, what the machine does fast."""
