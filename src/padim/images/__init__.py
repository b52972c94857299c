"""From an image file to pixels at network size, and from a map back onto the image; no torch."""
