"""From a graph and an image to a decision: what runs on the line; no torch."""
