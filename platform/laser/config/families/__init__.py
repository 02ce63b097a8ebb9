"""Sections of which one is chosen by its `type`: a union each, and the one place where a member is added."""
