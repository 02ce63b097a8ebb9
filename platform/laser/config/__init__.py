"""Settings: schema, composition, search spaces. Imports no torch, so that --help is instant."""
