"""Patroni promotes the standby of a lost primary, and the service goes on by itself."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.acceptance.outages import world
from tests.acceptance.patroni import cluster, is_installed
from tests.acceptance.postgres import DATABASE
from tests.waiting import eventually

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not is_installed, reason="patroni or etcd is not installed (patroni, etcd-server)"),
]


def test_failover_by_patroni_loses_nothing_acknowledged_and_needs_no_restart(server_dir: Path) -> None:
    with cluster(server_dir) as (first, second):
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in (first, second))
        url = f"postgresql://receiver@{hosts}/{DATABASE}?target_session_attrs=read-write"
        with world(server_dir, first, url) as running:
            before = {process.pid for process in running.web_processes()}
            posting = threading.Thread(target=running.results.post, args=(400,), kwargs={"at_once": 4})
            posting.start()
            eventually(lambda: running.stored() > 100)
            first.end()
            running.postgres = second
            posting.join()
            eventually(lambda: second.is_("primary"), 300, second.log)
            assert {each.status for each in running.results.posted} == {200}
            running.check_all_are_stored_once()
            running.check_verified()
            again = running.queue()
            assert again.status == 201, again.body
            assert {process.pid for process in running.web_processes()} == before
