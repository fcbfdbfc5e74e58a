"""Recipes of the forecasting app."""
