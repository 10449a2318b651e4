"""The door to a running agent: a few verbs over a Unix socket."""
