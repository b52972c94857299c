"""A fitted model: as data, as a file, as something that scores."""
