"""ID-based sequential recommenders, frozen once trained."""
