"""From good images to a model."""
