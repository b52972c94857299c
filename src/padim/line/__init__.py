"""Where pictures come from and where verdicts go to; without torch."""
