"""What was inspected, in a database, and the pictures that are kept of it."""
