"""One file per format: how it is written, how it carries its metadata, how it is run."""
