"""The command line: arguments to a run, progress, tables, exit codes."""
