"""What jobs share: arguments, --help, exit status, the summary line, progress."""
