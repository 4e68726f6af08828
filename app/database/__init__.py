"""Connections to PostgreSQL, their errors, retries, and the embedded server."""
