"""From uint8 images to embeddings, whoever computes them."""
