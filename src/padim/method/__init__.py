"""The method of the paper, in torch and numpy alone: no files, no network, no pictures."""
