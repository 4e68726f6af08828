"""The service, which says in a file when a worker ends as it should."""

import atexit
import os
from pathlib import Path

from app import create_app

app = create_app()
atexit.register(lambda: Path(os.environ["PUSH_TOKENS_ENDED"], str(os.getpid())).touch())
