"""Recipes of the physics app."""
