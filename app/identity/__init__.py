"""Who is signed in, where an identity provider decides."""
