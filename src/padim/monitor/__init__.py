"""A drift alarm with a proof: does the line still give what it gave? Without torch."""
