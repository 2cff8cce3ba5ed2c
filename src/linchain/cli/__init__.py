"""The command line: one file a command. Nothing here imports torch at module level, so that --help is instant."""
