"""Answers with a trained model: histories in, lists out; packaged models, lists in batches, HTTP."""
