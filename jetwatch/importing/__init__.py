"""What ran jobs before → a watch.yml that says the same, and what it cannot say. Pure: text in, text out."""
