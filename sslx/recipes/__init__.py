"""Recipes: their names, and the checks of a file and its name."""
