"""The model card of a finished run."""
