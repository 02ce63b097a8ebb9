"""Settings: schema, marks, composition, search spaces. The room imports no torch, so that --help is instant."""
