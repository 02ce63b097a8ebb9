"""Tiny real objects that tests in several folders build on."""
