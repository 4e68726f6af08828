"""What gunicorn and flask load: `wsgi:app`."""

from app import create_app

app = create_app()
