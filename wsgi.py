"""What gunicorn and flask load: `wsgi:app`."""

from app import create_app
from app.config import ConfigError

try:
    app = create_app()
except ConfigError as error:
    from app.cli import doctor

    app = doctor.patient(error)
