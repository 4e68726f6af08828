"""Reading mongoexport's output: what malformed documents cost."""

import io
import json

import pytest

from app.transfer import mongoexport

LINES = 5000


@pytest.fixture
def parsed(monkeypatch):
    """The lengths of what the parser was given; an error of its looks at all of it."""
    lengths: list[int] = []
    decoder = json.JSONDecoder()

    class Counting:
        def raw_decode(self, text: str, place: int = 0) -> tuple[object, int]:
            lengths.append(len(text))
            return decoder.raw_decode(text, place)

    monkeypatch.setattr(mongoexport, "_decoder", Counting())
    return lengths


def array(document: str) -> bytes:
    """Return an array of so many documents, the last of which is well-formed."""
    return ("[" + ",\n".join([*[document] * LINES, "{}"]) + "]").encode()


@pytest.mark.parametrize("bad", ['{"a": x}', '{"a": "x', '{"a": tru}', '{\n "ü": x\n}', '{"a":'])
def test_malformed_documents_of_an_array_cost_what_others_cost(parsed, bad):
    found = list(mongoexport.entries(io.BytesIO(array(bad))))
    assert [entry.document for entry in found] == [*[None] * LINES, {}]
    assert all(entry.problem.startswith("not JSON: ") for entry in found[:-1])
    assert len(parsed) <= LINES + 10  # near the end of what was read they may be cut
    assert max(parsed) <= mongoexport.PART


def test_a_document_longer_than_what_is_parsed_first_is_read_whole(parsed):
    long = {"a": "x" * 2 * mongoexport.PART, "b": [{}] * mongoexport.PART}
    data = json.dumps([long, {"c": 1}, long], indent=1).encode()
    assert [entry.document for entry in mongoexport.entries(io.BytesIO(data))] == [
        long,
        {"c": 1},
        long,
    ]
