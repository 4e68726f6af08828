"""The HTTP interface: views, guards, schemas and errors."""
