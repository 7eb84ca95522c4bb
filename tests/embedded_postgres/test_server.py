"""The embedded server, really started, stopped and killed. As root and as an ordinary user."""

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest

from receiver.embedded_postgres.account import ACCOUNTS, Account, EmbeddedPostgresError, account_for
from receiver.embedded_postgres.installation import programs_for
from receiver.embedded_postgres.postmaster import is_postmaster_of
from receiver.embedded_postgres.server import EmbeddedPostgres
from tests.conftest import HURRIED
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another account")


@pytest.fixture
def server(server_dir: Path) -> Iterator[EmbeddedPostgres]:
    """Not yet started."""
    server = EmbeddedPostgres(server_dir / "var", HURRIED)
    yield server
    server.close()
    server.stop(fast_seconds=2)


def fetch(server: EmbeddedPostgres, query: str, *given: object) -> tuple[object, ...] | None:
    with psycopg.connect(server.conninfo) as conn:
        return conn.execute(query.encode(), given).fetchone()


def kill_postmaster(server: EmbeddedPostgres) -> int:
    pid = server.postmaster_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_postmaster_of(pid, server.cluster))
    return pid


def test_committed_rows_exist_after_a_restart(server: EmbeddedPostgres) -> None:
    assert not server.is_running()
    server.start()
    with psycopg.connect(server.conninfo) as conn:
        conn.execute("create table kept as select 7 as n")
    server.stop()
    assert not server.is_running()
    assert server.postmaster_pid() is None
    server.start()
    assert fetch(server, "select n from kept") == (7,)


def is_recovering(server: EmbeddedPostgres) -> bool:
    """Repeat until it is true: a busy machine may miss a state that lasts five seconds."""
    try:
        with closing(psycopg.connect(server.conninfo)) as stopped, closing(psycopg.connect(server.conninfo)) as killed:
            # A stopped process cannot quit. Until the server kills it after five seconds, no connection is accepted.
            with suppress(ProcessLookupError):  # the server may end all of them at this moment
                os.kill(stopped.info.backend_pid, signal.SIGSTOP)
                os.kill(killed.info.backend_pid, signal.SIGKILL)
    except psycopg.OperationalError as error:
        return "in recovery mode" in str(error)
    return False


@pytest.mark.long
def test_start_waits_while_the_server_recovers_from_a_killed_process(server: EmbeddedPostgres) -> None:
    server.start()
    eventually(lambda: is_recovering(server))
    assert server.is_running()
    other = EmbeddedPostgres(server.data_dir, HURRIED)
    other.start()
    assert fetch(other, "select 7") == (7,)
    other.close()


def test_settings_of_the_product_are_durable_and_private(server_dir: Path) -> None:
    with EmbeddedPostgres(server_dir / "var") as server:
        query = (
            "select current_setting('fsync'), current_setting('synchronous_commit'),"
            " current_setting('listen_addresses'), current_setting('timezone'),"
            " current_setting('server_encoding'), lower('BJÖRN')"
        )
        assert fetch(server, query) == ("on", "on", "", "UTC", "UTF8", "björn")
        assert server.socket_dir.stat().st_mode & 0o777 == 0o700
    assert not server.is_running()


def test_alter_system_wins_over_the_written_settings(server: EmbeddedPostgres) -> None:
    server.start()
    with psycopg.connect(server.conninfo, autocommit=True) as conn:
        conn.execute("alter system set work_mem = '13MB'")
    server.stop()
    server.start()
    assert fetch(server, "select current_setting('work_mem')") == ("13MB",)


def test_second_user_shares_the_server_and_the_last_one_stops_it(server: EmbeddedPostgres) -> None:
    server.start()
    pid = server.postmaster_pid()
    other = EmbeddedPostgres(server.data_dir, HURRIED)
    with other:
        assert other.postmaster_pid() == pid
        server.close()
        assert other.is_running()
    assert not server.is_running()


_START = """
import os
import sys
from pathlib import Path
from receiver.embedded_postgres.server import EmbeddedPostgres
from tests.conftest import HURRIED
for uid in map(int, sys.argv[2:]):  # after the imports: the user may be unable to read this Python
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
server = EmbeddedPostgres(Path(sys.argv[1]), HURRIED)
server.start()
print(server.postmaster_pid(), flush=True)
sys.stdin.read()
server.close()
"""


def starter(folder: Path, *uid: int) -> "subprocess.Popen[str]":
    """A process, of the user `uid`, that uses the server of `folder` until its standard input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", _START, str(folder), *map(str, uid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.long
def test_four_concurrent_processes_share_one_server_and_leave_none(server_dir: Path) -> None:
    folder = server_dir / "var"
    processes = [starter(folder) for _ in range(4)]
    pids = {process.stdout.readline().strip() for process in processes if process.stdout}
    try:
        assert len(pids) == 1
        assert EmbeddedPostgres(folder).is_running()
    finally:
        with ThreadPoolExecutor(4) as waiting:  # all leave at the same time, and exactly one must be the last
            outputs = list(waiting.map(lambda process: process.communicate(timeout=60), processes))
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert not EmbeddedPostgres(folder).is_running()
    assert not is_postmaster_of(int(pids.pop()), folder / "postgres")


def test_killed_user_no_longer_counts(server: EmbeddedPostgres) -> None:
    with starter(server.data_dir) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.communicate()
    assert server.is_running()
    server.start()
    server.close()
    assert not server.is_running()


@pytest.mark.parametrize("program", ["sleep", "postgres"])
def test_stale_pid_of_another_process_is_not_trusted_and_not_killed(
    server: EmbeddedPostgres, server_dir: Path, program: str
) -> None:
    server.start()
    server.stop()
    account = account_for(server.cluster)
    named = server_dir / program  # a running process of the server's account, with the same name
    named.symlink_to("/bin/sleep")
    with subprocess.Popen([named, "60"], user=account.uid, cwd="/") as other_process:
        try:
            pid_file = server.cluster / "postmaster.pid"
            lines = [
                str(other_process.pid),
                str(server.cluster),
                "1",
                "5432",
                str(server.cluster),
                "",
                "",
                "ready",
            ]
            pid_file.write_text("\n".join(lines))
            account.own(pid_file)
            assert server.postmaster_pid() is None
            server.stop()
            server.start()
            assert server.postmaster_pid() not in (None, other_process.pid)
            server.stop()
            assert other_process.poll() is None
        finally:
            other_process.kill()


def test_killed_postmaster_is_replaced_without_loss(server_dir: Path) -> None:
    server = EmbeddedPostgres(server_dir / "var", HURRIED | {"fsync": "on", "synchronous_commit": "on"})
    with server:
        with psycopg.connect(server.conninfo) as conn:
            conn.execute("create table kept as select 7 as n")
        killed = kill_postmaster(server)
        assert not server.is_running()
        server.start()
        assert server.postmaster_pid() != killed
        assert fetch(server, "select n from kept") == (7,)


def test_start_waits_for_a_process_that_outlives_its_killed_postmaster(server: EmbeddedPostgres) -> None:
    server.start()
    client = psycopg.pq.PGconn.connect(server.conninfo.encode())
    child = client.backend_pid
    # Counting never waits, so the process does not notice that its postmaster was killed.
    client.send_query(b"select count(*) from generate_series(1, 1000000000)")
    client.flush()
    state = "select state from pg_stat_activity where pid = %s"
    eventually(lambda: fetch(server, state, child) == ("active",))
    kill_postmaster(server)
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(server.start)
        with pytest.raises(TimeoutError):
            starting.result(0.5)
        os.kill(child, signal.SIGQUIT)
        starting.result(60)
    client.finish()
    assert server.is_running()
    assert fetch(server, "select 1") == (1,)


@pytest.mark.long
def test_server_that_does_not_stop_in_time_gets_an_immediate_shutdown(server: EmbeddedPostgres) -> None:
    server.start()
    pid = server.postmaster_pid()
    assert pid is not None
    found = fetch(server, "select pid from pg_stat_activity where backend_type = 'checkpointer'")
    assert found is not None
    checkpointer = int(str(found[0]))
    os.kill(checkpointer, signal.SIGSTOP)  # a fast stop waits for its last checkpoint
    server.stop(fast_seconds=0.3)
    assert not is_postmaster_of(pid, server.cluster)
    server.start()
    assert server.is_running()


def test_long_path_gets_a_short_private_socket_folder(server_dir: Path) -> None:
    server = EmbeddedPostgres(server_dir / ("long " * 20).strip() / "it's", HURRIED)
    with server:
        assert len(str(server.socket_dir)) < 86
        assert server.socket_dir.stat().st_mode & 0o777 == 0o700
        assert fetch(server, "select 1") == (1,)
    assert not server.socket_dir.exists()


def test_folder_of_another_major_version_is_refused(server: EmbeddedPostgres) -> None:
    server.cluster.mkdir(parents=True)
    (server.cluster / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedPostgresError, match=r"made by Postgres 17.*brings Postgres 18") as caught:
        server.start()
    assert caught.value.code == "database_version"


def test_server_that_cannot_start_reports_the_reason(server_dir: Path) -> None:
    server = EmbeddedPostgres(server_dir / "var", HURRIED | {"shared_buffers": "nonsense"})
    with pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "shared_buffers"'), server:
        pass


def test_incomplete_database_of_a_killed_start_is_removed(server: EmbeddedPostgres) -> None:
    half_made = server.data_dir / ".postgres-killed"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")
    server.start()
    assert not half_made.exists()


@as_root
def test_root_runs_the_server_as_an_unprivileged_account(server: EmbeddedPostgres) -> None:
    server.start()
    pid = server.postmaster_pid()
    owner = Path(f"/proc/{pid}").stat().st_uid
    assert pwd.getpwuid(owner).pw_name in ACCOUNTS
    assert server.cluster.stat().st_uid == owner
    assert server.data_dir.stat().st_uid == 0


@as_root
def test_folder_that_the_account_cannot_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(EmbeddedPostgresError, match="cannot enter"):
        EmbeddedPostgres(tmp_path / "var").start()
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@as_root
def test_programs_that_the_account_cannot_read_are_copied_once(
    server_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = account_for(server_dir / "var")
    monkeypatch.setattr(Account, "may", lambda *_: False)  # as for a virtualenv under /root
    with ThreadPoolExecutor(3) as starters:
        found = set(starters.map(lambda _: programs_for(account, shared_folder=server_dir / "lib"), range(3)))
    assert len(found) == 1
    assert len([entry for entry in (server_dir / "lib").iterdir() if entry.is_dir()]) == 1
    assert account.run([found.pop() / "pg_ctl", "--version"], timeout=10).returncode == 0


@pytest.mark.long
@as_root
def test_user_runs_the_server_and_root_continues_with_the_same_database(server_dir: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    programs = programs_for(Account("root"))
    if not Account("nobody", nobody.pw_uid, nobody.pw_gid).may("-x", programs / "postgres"):
        pytest.skip(f"nobody cannot run what lies in {programs}")
    home = server_dir / "home"
    home.mkdir(mode=0o711)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    with starter(home / "var", nobody.pw_uid) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline() or 0)
        assert pid, process.communicate()[1]
        assert Path(f"/proc/{pid}").stat().st_uid == nobody.pw_uid
        output = process.communicate(timeout=60)
    assert process.returncode == 0, output
    with EmbeddedPostgres(home / "var", HURRIED) as server:
        restarted = server.postmaster_pid()
        assert restarted != pid
        assert Path(f"/proc/{restarted}").stat().st_uid == nobody.pw_uid
        assert fetch(server, "select 1") == (1,)
