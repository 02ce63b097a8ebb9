"""From files to numbered, ordered interactions, as streams of Arrow."""
