"""From raw files to examples, prompts and batches: Arrow in, arrays out."""
