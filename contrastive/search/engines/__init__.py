"""What holds embeddings and finds those closest to a query: the built-in engine and LanceDB; candidates before both."""
