"""The paper's Section 2 for any vision model: what it costs, where its time goes, what in it is redundant."""
