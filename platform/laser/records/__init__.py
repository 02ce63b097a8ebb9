"""Recorded results: files of a folder, what is claimed of them, what others have published, and the page of all"""
