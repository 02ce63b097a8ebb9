"""Reports of tables, experts and recorded results, as blocks of a page."""
