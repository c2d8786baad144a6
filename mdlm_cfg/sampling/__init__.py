"""Samplers: what is drawn, and the exact law of what is drawn."""
