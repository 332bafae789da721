"""What a network could do without (Fig. 5): scores of channels, a plan under a limit, and the smaller network."""
