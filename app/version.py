"""The version of the product; pyproject.toml reads it here, `make release` writes it."""

VERSION = "0.2.0.dev0"
