"""One training run: from its configuration to a folder of results."""
