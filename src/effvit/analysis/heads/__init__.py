"""Attention heads: their maps, how alike they are, and what they see (Sec. 2.2, Fig. 4)."""
