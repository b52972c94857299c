"""Files from elsewhere, kills and races: what padim makes of what should not be."""
