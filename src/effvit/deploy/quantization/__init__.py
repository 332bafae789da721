"""Numbers of eight bits: what is calibrated, what stays in float, and what it costs."""
