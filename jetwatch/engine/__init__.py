"""What to do next: pure decisions and the one loop."""
