"""From files to numbered and ordered interactions, as streams of Arrow."""
