"""Flask's answer as one value, app/server/wsgi.py; and what is loaded for it."""

import io
import subprocess
import sys

from werkzeug.wsgi import FileWrapper

from app.config import ROOT
from app.server import wsgi


def test_a_file_is_read_to_its_end_and_then_not_again():
    def app(environ, start_response):
        start_response("200 OK", [])
        return FileWrapper(file)

    sent = bytes(range(256)) * (wsgi.PART // 256) + b"the rest"
    file = io.BytesIO(sent)
    answer = wsgi.call(app, {})
    body = answer.body
    while part := answer.more(True):
        body += part
    assert body == sent
    assert file.closed


def test_nothing_is_loaded_that_only_commands_or_rocketchat_need():
    code = (
        "import sys; from app import create_app; from app.config import Settings;"
        " create_app(Settings(database_url='postgresql:///x')); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    assert "app.api.client" in loaded
    assert loaded.isdisjoint({"alembic", "rich", "app.cli.push_tokens", "urllib3", "apispec"})
