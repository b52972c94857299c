"""From a folder of results to one HTML file."""
