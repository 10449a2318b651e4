"""What `jetp doctor` looks at: one file a topic, each reads facts at its rim and judges them with a pure function."""
