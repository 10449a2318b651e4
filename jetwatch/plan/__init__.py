"""What one configuration costs on a whole fleet: simulated with the functions that the agent itself plans by."""
