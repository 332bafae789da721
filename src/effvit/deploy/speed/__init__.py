"""How fast models are: who takes part, in which form, measured how, and shown to people."""
