"""Raw layouts, one file each, all read into the same form, and prepared as a dataset once."""
