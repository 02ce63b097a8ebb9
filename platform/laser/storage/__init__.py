"""Where bytes live: files that are there whole or not at all, locks, the cache, wheels."""
