"""A page in the browser to search with, and to see why a posting matched."""
