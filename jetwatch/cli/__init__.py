"""jetp, the command line."""
