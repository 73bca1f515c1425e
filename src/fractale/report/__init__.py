"""A run as a page: one HTML file, or the body of a page of `fractale.web`."""
