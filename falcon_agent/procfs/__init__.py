"""One module per file of /proc; parsers take bytes and return a value."""
