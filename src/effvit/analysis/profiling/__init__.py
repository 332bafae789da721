"""Where a network's time goes, and why: measured by operator class, module and head, and said in words."""
