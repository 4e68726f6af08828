"""`python -m bench.scale`: its arithmetic against another one, bad input, and docs/scale.md."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from app.config import ROOT
from bench.scale.__main__ import main

# Every cost is a round number. A registration changes one page of each table.
OF_ONE = {
    "cpu_us": {"1": 800, "8": 100, "64": 50},
    "wal_bytes": 200,
    "images": {"push_tokens": [1, 7000], "user_sessions": [1, 8000]},
}
OF_A_CALL = {"cpu_us": 400, "wal_bytes": 300, "images": {}}
KINDS = ("refresh", "refresh with voip", "new device", "new device with voip")
COSTS = {
    "1000000": {
        "sizes": {
            "push_tokens": {"rows": 1, "bytes": {"push_tokens": 320, "pk_push_tokens": 80}},
            "user_sessions": {"rows": 1, "bytes": {"user_sessions": 100, "pk_user_sessions": 20}},
        },
        "registrations": dict.fromkeys((*KINDS, "rotation", "new session"), OF_ONE),
        "calls": {
            "lookup of 1": OF_A_CALL,
            "lookup of 50": {**OF_A_CALL, "cpu_us": 10},
            "session announced": OF_A_CALL,
            "sign-out": OF_A_CALL,
        },
        "replay": {"refresh": {"cpu_us": 20, "image_us": 5}},
        "service": {"registration": 150, "lookup of 1": 1000, "lookup of 50": 100},
    }
}
# 864 million devices, each once in ten days: 1,000 registrations a second on average, 2,000 at
# the peak, and nothing else.
PLAIN = (
    "--devices 864e6 --refreshes-per-day 0.1 --new-per-day 0 --rotations-per-day 0"
    " --sign-ins-per-day 0 --lookups-per-day 0 --voip 0 --peak 2 --checkpoint-minutes 10"
)


@pytest.fixture
def costs(tmp_path):
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(COSTS))
    return path


@pytest.fixture
def printed(capsys, costs):
    """Return what is printed for a command line, as the last cell of each line by its first."""

    def run(line: str) -> dict[str, str]:
        main([*shlex.split(line), "--costs", str(costs)])
        lines = [re.split(r"  +", line.strip()) for line in capsys.readouterr().out.splitlines()]
        return {first: cells[-1] for first, *cells in lines}

    return run


def test_the_table_is_what_a_calculation_of_its_own_gives(printed):
    shown = printed(PLAIN)
    # A page is drawn in ten minutes, or is not, 1,200,000 times at the peak.
    pages = {"push_tokens": 864e6 * 320 / 8192, "user_sessions": 864e6 * 100 / 8192}
    drawn = {name: there * (1 - (1 - 1 / there) ** 1_200_000) for name, there in pages.items()}
    wal = 2000 * 200 + (drawn["push_tokens"] * 7000 + drawn["user_sessions"] * 8000) / 600
    everything = 864e6 * (320 + 80 + 100 + 20)
    expected = {
        "registrations/s, average": 1000,
        "registrations/s, peak": 2000,
        "users looked up/s, peak": 0,
        "cores of the service, peak": 2000 * 150e-6,
        "cores of PostgreSQL, peak": 2000 * 100e-6,
        "of them for lookups": 0,
        "tables, GiB": 864e6 * 420 / 2**30,
        "indexes, GiB": 864e6 * 100 / 2**30,
        "memory to hold them, GiB": everything / 0.8 / 2**30,
        "disk to order, GiB": (everything * 1.5 + wal * 1200) / 2**30,
        # Two pages that it changes and two that it reads; 0.8 of 128 GiB are in memory.
        "random reads/s, peak": 8000 * (1 - 0.8 * 128 * 2**30 / everything),
        "WAL MB/s, peak": wal / 1e6,
        "max_wal_size, GiB": wal * 1200 / 2**30,
        "to each standby, Mbit/s, peak": wal * 8 / 1e6,
        "standby's replay, cores of 1": 2000 * 20e-6 + sum(drawn.values()) / 600 * 5e-6,
        "written back, MB/s, peak": sum(drawn.values()) * 8192 / 600 / 1e6,
        "dead rows a day, millions": 0,
        "hours of a vacuum": 864e6 * 400 / 8192 * 22 / 200 * 0.002 / 3600,
        "days to 200 million xids": 200e6 / (1000 / 8 * 86_400),
        "hours to restore": everything / 250e6 / 3600,
    }
    for name, value in expected.items():
        assert float(shown[name].replace(",", "")) == pytest.approx(value, rel=0.03), name


def test_each_kind_of_registration_and_call_counts(printed):
    shown = printed(
        "--devices 86_400_000 --peak 1 --voip 0.5 --refreshes-per-day 1 --new-per-day 0.1"
        " --rotations-per-day 0.2 --sign-ins-per-day 0.3 --lookups-per-day 4 --users-a-lookup 1"
    )
    assert shown["registrations/s, average"] == "1,600"
    # 1,600 registrations, 4,000 lookups, and 400 sessions that begin and 400 that end.
    assert float(shown["cores of PostgreSQL, peak"]) == pytest.approx(
        1600 * 100e-6 + 4800 * 400e-6, rel=0.03
    )
    assert shown["of them for lookups"] == "1.6"
    assert float(shown["tables, GiB"]) == pytest.approx(86.4e6 * (1.5 * 320 + 100) / 2**30, 0.03)
    assert float(shown["dead rows a day, millions"]) == pytest.approx(86.4 * 0.6, rel=0.01)
    # Of 1.5 rows a device a fifth has to be dead.
    assert float(shown["vacuums a day"]) == pytest.approx(0.6 / 1.5 / 0.2, rel=0.01)


def test_a_larger_group_costs_less_each(printed):
    cores = {
        size: float(printed(f"{PLAIN} --group {size}")["cores of PostgreSQL, peak"])
        for size in (1, 2, 8, 64)
    }
    # Between groups of 1 and of 8: 100 us and (1 / 2 - 1 / 8) / (1 - 1 / 8) of the other 700.
    expected = {1: 1.6, 2: 0.8, 8: 0.2, 64: 0.1}
    assert cores == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("more", "fails", "way"),
    [
        ("", "disk", "one node, partitions"),
        ("--devices 1e6", "disk", "one node"),
        ("--wal 10", "WAL", "node x 3, partitions"),
        ("--wal 5", "WAL", "6 nodes, spread"),
        ("--wal 5 --largest-tenant 0.15", "WAL", "6 nodes, tenants"),
        ("--wal 5 --largest-tenant 0.2", "WAL", "6 nodes, spread"),
        ("--disk 200", "disk", "node x 3.4, partitions"),
        ("--lookups-per-day 210 --users-a-lookup 50", "CPU", "one node, replicas: 6, partitions"),
        ("--group 1 --cores 0.5", "CPU", "26 nodes, spread"),
        ("--restore-hours 0.1", "restore", "5 nodes, spread"),
        ("--reads 1000", "reads", "node x 2.8, partitions"),
        ("--reads 1 --bigger 10", "reads", "node x 4.1, partitions"),
    ],
)
def test_what_fails_first_decides_the_way(more, fails, way, printed):
    shown = printed(f"{PLAIN} {more}")
    assert shown["fails first"].split()[0] == fails
    assert shown["way"] == way


def test_each_number_of_devices_is_a_column(capsys):
    main(["--devices", "1e3", "1e9"])
    assert capsys.readouterr().out.splitlines()[0].split() == ["devices", "1,000", "1,000,000,000"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--devices 0", "--devices: '0' has to be at least 1 and at most"),
        ("--devices 1e11", "--devices: '1e11' has to be"),
        ("--devices many", "--devices: 'many' is no number"),
        ("--devices nan", "'nan' has to be"),
        ("--devices", "expected at least one argument"),
        ("--refreshes-per-day -1", "--refreshes-per-day: '-1' has to be at least 0"),
        ("--voip 1.5", "--voip: '1.5' has to be at least 0 and at most 1"),
        ("--peak 0.5", "--peak: '0.5' has to be at least 1"),
        ("--group 65", "--group: '65' has to be at least 1 and at most 64"),
        ("--cores 0", "--cores: '0' has to be"),
        ("--disk inf", "--disk: 'inf' has to be"),
        ("--costs /nowhere", "/nowhere has no figures of make bench-costs"),
        ("--costs /dev/null", "/dev/null has no figures of make bench-costs"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(line, told, capsys):
    with pytest.raises(SystemExit) as end:
        main(shlex.split(line))
    said = str(end.value) if isinstance(end.value.code, str) else capsys.readouterr().err
    assert told in said
    assert end.value.code != 0


def test_nothing_a_day_is_no_error(printed):
    shown = printed(f"{PLAIN} --refreshes-per-day 0")
    assert shown["bytes of WAL a registration"] == "0"
    assert shown["days to 200 million xids"] == "inf"
    assert shown["way"] == "one node, partitions"


COMMAND = re.compile(r"^```\npython -m bench\.scale(.*)\n((?:.*\n)*?)```$", re.M)


@pytest.mark.parametrize(
    ("line", "table"),
    COMMAND.findall((ROOT / "docs" / "scale.md").read_text()),
    ids=lambda value: value.split("\n")[0].strip()[:40],
)
def test_the_tables_of_the_document_are_what_is_printed(line, table, capsys):
    """Where bench/costs.json was measured anew they change, and maybe what is said of them."""
    main(shlex.split(line))
    assert capsys.readouterr().out == table


def test_the_document_has_its_tables():
    assert len(COMMAND.findall((ROOT / "docs" / "scale.md").read_text())) >= 3


def test_it_needs_nothing_that_is_installed():
    """Not even this project's dependencies: -S leaves site-packages out."""
    command = [sys.executable, "-S", "-m", "bench.scale", "--devices", "1e9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "1,000,000,000" in done.stdout
