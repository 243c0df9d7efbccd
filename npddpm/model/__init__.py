"""A model that learns a table."""
