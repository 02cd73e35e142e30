"""Writes features of a whole data set to a file: `python -m sslx.features`."""
