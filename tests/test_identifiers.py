"""Fresh ids and names."""

import time

from app.identifiers import ID_ALPHABET, fresh_id, fresh_name

LATEST = len(ID_ALPHABET) ** 6 - 1  # seconds


def test_an_id_sorts_by_the_second_it_was_made_in(monkeypatch):
    seconds = [0, 54, 55, 1_800_000_000, 1_800_000_001, LATEST]
    ids = []
    for second in seconds:
        monkeypatch.setattr(time, "time", lambda second=second: second + 0.9)
        ids.append(fresh_id())
    assert [id_.encode() for id_ in ids] == sorted(id_.encode() for id_ in ids)
    assert [id_[:6] for id_ in ids[:3]] == ["222222", "22222z", "222232"]
    assert {len(id_) for id_ in ids} == {23}


def test_of_one_second_no_two_are_the_same():
    names = {fresh_name() for _ in range(1000)} | {fresh_id()[6:] for _ in range(1000)}
    assert len(names) == 2000
    assert set("".join(names)) == set(ID_ALPHABET)
