"""Arrow in, arrays out: raw sources, filters, split, prompts, batches."""
