"""The road from embeddings to a loss: scores, masks, blocks of rows, and what a formula sees of them."""
