"""What so many devices need of PostgreSQL: `python -m bench.scale`, docs/scale.md."""
