"""A URL → a directory: which revision is there now, and exactly that revision, complete or not at all."""
