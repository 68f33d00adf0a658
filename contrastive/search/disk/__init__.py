"""An index on disk: what it consists of, how it is built and changed, and how it is opened."""
