"""Recipes of the genomics app."""
