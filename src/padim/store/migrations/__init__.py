"""How the tables of a release become those of the next."""
