"""Flask's answer as one value: app/server/wsgi.py."""

import io

from werkzeug.wsgi import FileWrapper

from app.server import wsgi


def test_a_file_is_read_to_its_end_and_then_not_again():
    def app(environ, start_response):
        start_response("200 OK", [])
        return FileWrapper(file)

    sent = bytes(range(256)) * (wsgi.PART // 256) + b"the rest"
    file = io.BytesIO(sent)
    answer = wsgi.call(app, {})
    body = answer.body
    while part := answer.more():
        body += part
    assert body == sent
    assert file.closed
