"""Raw layouts, one file each, read into one form."""
