"""Mining hard negatives to a file."""
