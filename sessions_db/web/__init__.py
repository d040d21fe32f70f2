"""The read-only pages for people who audit."""
