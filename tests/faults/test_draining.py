"""Instances are restarted one after the other, and no request fails."""

import signal
import time

from tests.support.databases import opened
from tests.support.live import ask, serve
from tests.support.load import load
from tests.support.patience import wait_until
from tests.support.proxy import NO_LIMITS, nginx

DRAIN = 8  # seconds: time to ask one that ends, on a busy machine too


def test_a_rolling_restart_of_two_instances_fails_no_request(cluster, callers, folder):
    """Behind nginx, which has both; each says that it ends, and serves on meanwhile."""
    url, drain = cluster.url(), {"DRAIN_SECONDS": str(DRAIN)}
    with serve(url, **drain) as first, serve(url, DRAIN_SECONDS="2") as second:
        socket = f"server unix:{folder / 'none'} max_fails=0;"
        both = [f"server 127.0.0.1:{live.port} max_fails=0;" for live in (first, second)]
        with (
            nginx(
                folder / "n", folder / "none", changes=NO_LIMITS | {socket: " ".join(both)}
            ) as proxy,
            load(f"127.0.0.1:{proxy.public}", callers, 0.05) as clients,
        ):
            clients.first_success(time.monotonic())
            begin = time.monotonic()
            first.process.send_signal(signal.SIGTERM)
            wait_until(lambda: says_that_it_ends(first))
            assert ask(first, "/healthz", method="GET")[0] == 200
            assert ask(first, "/api/v1/push.token", {}, X_User_Id="a")[0] == 401
            assert first.process.wait(60) == 0
            assert time.monotonic() - begin >= DRAIN
            with serve(url, PORT=str(first.port)):
                second.process.send_signal(signal.SIGTERM)
                assert second.process.wait(60) == 0
                clients.first_success(time.monotonic())
                clients.end()
    assert not clients.failures()
    assert clients.acknowledged() > 200
    with opened(url) as database:
        assert clients.lost(database.connection) == []


def says_that_it_ends(live) -> bool:
    status, _, said = ask(live, "/readyz", method="GET")
    return (status, "about to end" in said) == (503, True)


def test_a_second_term_ends_an_instance_that_drains_at_once(cluster):
    with serve(cluster.url(), DRAIN_SECONDS="600") as live:
        live.process.send_signal(signal.SIGTERM)
        wait_until(lambda: says_that_it_ends(live))
        time.sleep(1)
        assert live.says_yes("/healthz")
        live.process.send_signal(signal.SIGTERM)
        assert live.process.wait(60) == 0
