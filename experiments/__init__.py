"""Programs over the library: train and judge, judge alone, compare."""
