"""Weights to the fastest exact function: deploy form, export, verification, benchmark."""
