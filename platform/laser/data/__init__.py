"""From a prepared dataset to examples, prompts and batches: Arrow in, arrays out."""
