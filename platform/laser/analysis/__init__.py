"""Looks into what is there, and trains nothing: what items and users share of the text cache."""
