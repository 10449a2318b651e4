"""What happened, told: log lines."""
