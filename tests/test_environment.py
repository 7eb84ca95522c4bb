"""Reading the environment: every variable, every default, and all faults at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from receiver.config import Config
from receiver.environment import RESULT_URL_LENGTH, TOKEN_LENGTH, read_config
from receiver.errors import ConfigurationError
from receiver.intake.token import ResultTokens, result_url
from receiver.model import SubmissionKey

KEY = "0123456789abcdef"
DATABASE = "postgresql://user:the-password@db.example/receiver"


def faults(**environ: str) -> list[tuple[str | int, str]]:
    with pytest.raises(ConfigurationError) as caught:
        read_config(environ)
    return [(fault.where, fault.code) for fault in caught.value.faults]


def test_defaults_run_everything_on_this_machine() -> None:
    config = read_config({})
    assert config == Config(
        data_dir=Path("var").absolute(),
        public_url="http://127.0.0.1:8000",
        port=8000,
        database_url=None,
        secret_keys=(),
        plum_url="https://fuse.plumvoice.com",
        plum_user=None,
        plum_key=None,
        web_concurrency=os.cpu_count() or 1,
        default_region="US",
        submission_rows=10000,
        result_grace_seconds=3600,
        retention_days=None,
    )
    assert not config.has_provider


def test_every_variable_is_read(tmp_path: Path) -> None:
    config = read_config(
        {
            "DATABASE_URL": DATABASE,
            "DATA_DIR": str(tmp_path / "data"),
            "PUBLIC_URL": "https://calls.example/receiver/",
            "PLUM_URL": "https://provider.example:8443/",
            "PLUM_USER": "me@example.com",
            "PLUM_KEY": "the developer key",
            "SECRET_KEY": f" {KEY}new , {KEY}old ,",
            "PORT": "9000",
            "WEB_CONCURRENCY": "3",
            "DEFAULT_REGION": "gb",
            "SUBMISSION_ROWS": "500",
            "RESULT_GRACE": "0",
            "RETENTION_DAYS": "30",
            "CALLBACK_BUDGET": "7",
        }
    )
    assert config == Config(
        data_dir=tmp_path / "data",
        public_url="https://calls.example/receiver",
        port=9000,
        database_url=DATABASE,
        secret_keys=(f"{KEY}new", f"{KEY}old"),
        plum_url="https://provider.example:8443",
        plum_user="me@example.com",
        plum_key="the developer key",
        web_concurrency=3,
        default_region="GB",
        submission_rows=500,
        result_grace_seconds=0,
        retention_days=30,
        callback_budget=7,
    )
    assert config.has_provider
    assert not (tmp_path / "data").exists()  # reading creates nothing


def test_default_public_url_is_the_port_on_this_machine() -> None:
    assert read_config({"PORT": "9000"}).public_url == "http://127.0.0.1:9000"


def test_blank_variables_count_as_not_set() -> None:
    names = ["DATABASE_URL", "PUBLIC_URL", "PLUM_USER", "PLUM_KEY", "SECRET_KEY", "PORT", "RETENTION_DAYS", "DATA_DIR"]
    assert read_config({name: " " for name in names}) == read_config({})


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = faults(
        DATABASE_URL="mysql://user:the-password@db/receiver?ssl=1",
        DATA_DIR=str(tmp_path / "file" / "data"),
        PUBLIC_URL="calls.example",
        PLUM_URL="ftp://provider.example",
        PLUM_USER="me@example.com",
        PORT="http",
        WEB_CONCURRENCY="0",
        DEFAULT_REGION="Germany",
        SUBMISSION_ROWS="10_000",
        RESULT_GRACE="-1",
        RETENTION_DAYS="30.5",
        CALLBACK_BUDGET="0",
    )
    assert sorted(found) == [
        ("CALLBACK_BUDGET", "invalid"),
        ("DATABASE_URL", "invalid"),
        ("DATA_DIR", "invalid"),
        ("DEFAULT_REGION", "invalid"),
        ("PLUM_KEY", "missing"),
        ("PLUM_URL", "invalid"),
        ("PORT", "invalid"),
        ("PUBLIC_URL", "invalid"),
        ("RESULT_GRACE", "invalid"),
        ("RETENTION_DAYS", "invalid"),
        ("SECRET_KEY", "missing"),
        ("SUBMISSION_ROWS", "invalid"),
        ("WEB_CONCURRENCY", "invalid"),
    ]


@pytest.mark.parametrize("value", ["0", "65536", "-1", "8e3", "8000.0", "+8000", "\u0668\u0660", "9" * 5000, "0x50"])
def test_invalid_port_is_a_fault(value: str) -> None:
    assert faults(PORT=value) == [("PORT", "invalid")]


@pytest.mark.parametrize("value", ["mysql://h/d?x=1", "postgresql", "localhost:5432", "sqlite:///x=y", "http://h/?a=b"])
def test_database_url_that_is_not_for_postgres_is_a_fault(value: str) -> None:
    assert faults(DATABASE_URL=value, SECRET_KEY=KEY) == [("DATABASE_URL", "invalid")]


@pytest.mark.parametrize(
    "value",
    [
        "postgres://h/d",
        "host=/run dbname=d",
        "host=h password=a://b",
        "postgresql://u:p%40ss%2Fword%231@h:5433/d?sslmode=verify-full",
        "postgresql://u:p:#?w@h/d",
        "postgresql:///d?host=/run&user=a@b",
        "postgresql://receiver@/receiver?host=%2Ftmp&port=5432",
        "postgresql://h1:1,h2:2/d?target_session_attrs=read-write",
    ],
)
def test_database_url_may_have_each_of_libpqs_forms(value: str) -> None:
    assert read_config({"DATABASE_URL": value, "SECRET_KEY": KEY}).database_url == value


@pytest.mark.parametrize("password", ["p@ss/word#1", "p@ss", "p/w", "p#w/x", "p?w/x", "50%", "%zz"])
def test_password_that_libpq_would_cut_is_a_fault_that_explains_encoding(password: str) -> None:
    value = f"postgresql://user:{password}@host/d"
    with pytest.raises(ConfigurationError) as caught:
        read_config({"DATABASE_URL": value, "SECRET_KEY": KEY})
    assert [fault.where for fault in caught.value.faults] == ["DATABASE_URL"]
    assert "percent-encoded" in str(caught.value) and "word" not in str(caught.value).replace("a password", "")


@pytest.mark.parametrize(
    "value",
    [
        "calls.example",
        "//calls.example",
        "ftp://calls.example",
        "http://",
        "http://:8000",
        "https://calls.example/?",
        "https://calls.example/#top",
        "https://calls.example/?a=b",
        "https://user:the-password@calls.example",
        "https://@calls.example",
        "https://calls.example:port",
        "https://calls.example:99999",
        "https://calls.example:0",
        "https://[::1",
        "https://calls example",
        "https://calls.example/\u00e4",
        "javascript:alert(1)",
    ],
)
def test_invalid_http_addresses_are_faults(value: str) -> None:
    for name in ("PUBLIC_URL", "PLUM_URL"):
        assert faults(**{name: value}) == [(name, "invalid")]


def test_public_url_leaves_room_for_the_longest_token() -> None:
    longest = SubmissionKey(10**18 - 1, 10**9 - 1)
    token = ResultTokens([KEY]).sign(longest)
    assert len(token) <= TOKEN_LENGTH and ResultTokens([KEY]).read(token) == longest
    room = RESULT_URL_LENGTH - len("/results/") - TOKEN_LENGTH
    fits = "https://" + "x" * (room - len("https://"))
    assert len(result_url(read_config({"PUBLIC_URL": fits}).public_url, token)) <= RESULT_URL_LENGTH
    assert faults(PUBLIC_URL=fits + "x") == [("PUBLIC_URL", "invalid")]


def test_secret_key_is_required_with_an_external_database() -> None:
    for value in ("", " ", ","):
        assert faults(DATABASE_URL=DATABASE, SECRET_KEY=value) == [("SECRET_KEY", "missing")]
    assert read_config({"SECRET_KEY": KEY}).secret_keys == (KEY,)


def test_one_short_key_in_the_list_is_a_fault() -> None:
    assert faults(SECRET_KEY=f"{KEY},{KEY[:-1]}") == [("SECRET_KEY", "too_short")]


def test_user_without_key_or_key_without_user_is_a_fault() -> None:
    assert faults(PLUM_USER="me") == [("PLUM_KEY", "missing")]
    assert faults(PLUM_KEY="key") == [("PLUM_USER", "missing")]


def test_no_repr_and_no_message_contains_a_secret() -> None:
    secrets = {"DATABASE_URL": DATABASE, "SECRET_KEY": f"{KEY}1,{KEY}2", "PLUM_USER": "me", "PLUM_KEY": "developer-key"}
    shown = repr(read_config(secrets))
    broken = {
        **secrets,
        "DATABASE_URL": "the-password@db",
        "SECRET_KEY": "fedcba,short-secret",
        "PLUM_URL": "https://me:developer-key@h",
    }
    with pytest.raises(ConfigurationError) as caught:
        read_config(broken)
    shown += str(caught.value) + repr(caught.value) + repr(caught.value.faults)
    for secret in ("the-password", KEY, "developer-key", "fedcba", "short-secret"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("environment", "simulated"),
    [
        ({}, True),
        ({"PLUM_SIMULATED": "0"}, True),
        ({"PLUM_USER": "me@example.com", "PLUM_KEY": "key"}, False),
        ({"PLUM_USER": "me@example.com", "PLUM_KEY": "key", "PLUM_SIMULATED": "false"}, False),
        ({"PLUM_USER": "simulator", "PLUM_KEY": "simulator", "PLUM_SIMULATED": "1"}, True),
        ({"PLUM_USER": "simulator", "PLUM_KEY": "simulator", "PLUM_SIMULATED": "true"}, True),
    ],
)
def test_settings_decide_whether_batches_are_for_a_simulator(environment: dict[str, str], simulated: bool) -> None:
    config = read_config(environment)
    assert config.simulated is simulated and config.batch_kind is simulated


def test_kind_of_a_batch_is_open_if_the_worker_may_have_other_settings() -> None:
    config = read_config({"DATABASE_URL": "postgresql://db.example/calls", "SECRET_KEY": "k" * 32})
    assert config.simulated and config.batch_kind is None


def test_cors_origins_are_a_list_without_paths() -> None:
    assert read_config({"CORS_ORIGINS": " https://CRM.example.com/ http://localhost:3000,"}).cors_origins == {
        "https://crm.example.com",
        "http://localhost:3000",
    }
    for wrong in ("*", "https://a.example/path", "crm.example.com", "https://a.example:443", "null", ","):
        assert faults(CORS_ORIGINS=wrong) == [("CORS_ORIGINS", "invalid")], wrong


def test_suppress_statuses_are_a_list_in_any_case() -> None:
    assert read_config({"SUPPRESS_STATUSES": " Do-Not-Call,,disconnected "}).suppress_statuses == {
        "do-not-call",
        "disconnected",
    }
    assert read_config({}).suppress_statuses == frozenset()
    with pytest.raises(ConfigurationError) as caught:
        read_config({"SUPPRESS_STATUSES": " , "})
    assert [fault.where for fault in caught.value.faults] == ["SUPPRESS_STATUSES"]


def test_people_are_notified_of_everything_but_results() -> None:
    assert read_config({}).notify_urls == ()
    config = read_config({"NOTIFY_URLS": " json://host/a\n  mailto://user:hush@example.com "})
    assert config.notify_urls == ("json://host/a", "mailto://user:hush@example.com")
    assert config.notify_events == (), "all but call.result"
    assert "hush" not in repr(config) and "mailto://user:hush@example.com" in config.secrets
    chosen = read_config({"NOTIFY_EVENTS": "batch.ended, call.result endpoint.disabled"})
    assert chosen.notify_events == ("batch.ended", "call.result", "endpoint.disabled")


def test_wrong_addresses_and_unknown_events_are_reported_without_the_addresses() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_config({"NOTIFY_URLS": "json://host hush://token mailto://hush", "NOTIFY_EVENTS": "batch.end"})
    assert [fault.where for fault in caught.value.faults] == ["NOTIFY_URLS", "NOTIFY_EVENTS"]
    assert "number 2, 3" in str(caught.value) and "hush" not in str(caught.value)
    assert "'batch.end'" in str(caught.value) and "batch.ended" in str(caught.value)


def test_security_contact_is_an_address() -> None:
    assert read_config({"SECURITY_CONTACT": "mailto:a@example.com"}).security_contact == "mailto:a@example.com"
    for wrong in ("a@example.com", "http://example.com", "https://example.com/ x"):
        with pytest.raises(ConfigurationError):
            read_config({"SECURITY_CONTACT": wrong})
