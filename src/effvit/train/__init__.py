"""Batches to weights: the training loop, evaluation, and the run folder that records both."""
