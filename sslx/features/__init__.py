"""Features of whole sets, as files; `python -m sslx.features`."""
