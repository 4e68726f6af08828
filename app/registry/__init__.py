"""The verbs: what can be done to registrations, sessions and service keys. They never commit."""
