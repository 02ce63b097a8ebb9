"""The jobs' command line: arguments, --help, exit status, the summary line, progress."""
