"""How every connection to PostgreSQL is made, and what its errors mean."""
