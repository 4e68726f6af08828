"""Import and export of registrations and sessions."""
