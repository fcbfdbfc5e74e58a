"""Recipes of the domain retrieval."""
