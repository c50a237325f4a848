"""What the scripts share, and what is long in one of them: none of it is a command."""
