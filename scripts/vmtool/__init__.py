"""A command on another kernel, on this machine's files."""
