"""What bin/start-nginx runs: COMMAND with its processes, and nginx once they answer."""
