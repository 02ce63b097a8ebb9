"""Settings: schema, marks, composition. The room imports no torch, so that --help is instant."""
