"""From categories to a folder of results."""
