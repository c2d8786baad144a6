"""Findings as tables, pictures, pages and wandb logs; it computes no numbers of its own."""
