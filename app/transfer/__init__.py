"""Registrations and sessions in bulk: files in and out."""
