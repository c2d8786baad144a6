"""Findings as tables, pictures, pages and wandb logs; this package computes no numbers of its own."""
