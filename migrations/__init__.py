"""How the schema changes: Alembic's env.py and revisions, and what they share."""
