"""How much attention a network should have (Fig. 3): the same layers with another share of attention among them."""
