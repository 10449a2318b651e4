"""A command spec → a result, held by a supervisor that outlives the agent."""
