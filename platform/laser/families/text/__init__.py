"""Families that read the items' texts: their sections are `TextSection`s."""
