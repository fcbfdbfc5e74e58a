"""Hydra recipes; composed as pkg://farfield.recipes.<domain>."""
