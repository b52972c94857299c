"""A service that inspects pictures: HTTP, recipes, admission."""
