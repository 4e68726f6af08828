"""/openapi.json, made from the schemas that validate, and the page /docs that shows it."""
