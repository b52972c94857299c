"""From scores and masks to numbers; numpy alone."""
