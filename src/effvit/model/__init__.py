"""The networks: configuration, layers, the network itself, its variants and its weights."""
