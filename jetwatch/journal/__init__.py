"""What happened, kept: SQLite, durable before it is announced."""
