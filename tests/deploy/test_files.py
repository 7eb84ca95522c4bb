"""The deployment files agree: they use existing variables and commands, and grant no unnecessary rights."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # types-PyYAML is not worth a pin

from receiver import __version__
from receiver.cli import main
from receiver.environment import VARIABLES, read_config
from receiver.intake.journal import BODY_BYTES
from receiver.web.app import UPLOAD_BYTES

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))

WEB, INTAKE = ("-c", "python:receiver.server.gunicorn_conf", "app:asgi"), (
    "-c", "python:receiver.server.gunicorn_conf", "receiver.intake.asgi:app",
)  # fmt: skip
"""The arguments of gunicorn."""

OTHERS = {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_CACHE_DIR"}
"""Variables of other programs."""


def kubernetes() -> list[dict[str, Any]]:
    files = [(DEPLOY / "kubernetes" / name).read_text() for name in ("release.yaml", "receiver.yaml")]
    return [item for text in files for item in yaml.safe_load_all(text)]


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for item in kubernetes():
        if "template" in item.get("spec", {}):
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """All containers of a pod, in the order in which they start."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def known_variables() -> set[str]:
    documented = (ROOT / "docs" / "configuration.md").read_text()
    return set(re.findall(r"`([A-Z][A-Z_]+)`", documented)) | OTHERS


def set_variables() -> Iterator[tuple[str, str]]:
    for name in ("systemd/environment.example", "systemd/intake.example", "compose.env.example"):
        for variable in re.findall(r"^([A-Z_]+)=", (DEPLOY / name).read_text(), re.MULTILINE):
            yield name, variable
    for variable in re.findall(r"([A-Z_]{3,})=", (DEPLOY / "Containerfile").read_text()):
        yield "Containerfile", variable
    for service in compose()["services"].values():
        for variable in service["environment"]:
            yield "compose.yaml", variable
    for item in kubernetes():
        for variable in item.get("data", {}):
            yield "receiver.yaml", variable
    for _, pod in pods():
        for container in containers(pod):
            yield from (("receiver.yaml", each["name"]) for each in container.get("env", []))


def commands() -> Iterator[list[str]]:
    for unit in UNITS:
        yield from (shlex.split(line) for line in re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE))
    for line in re.findall(r"^\w+: (.*)$", (ROOT / "Procfile").read_text(), re.MULTILINE):
        yield from (shlex.split(command) for command in line.split(" && "))
    yield from (service["command"] for service in compose()["services"].values() if "command" in service)
    yield from (each["command"] for _, pod in pods() for each in containers(pod) if "command" in each)


def test_every_variable_that_is_set_is_documented() -> None:
    unknown = {(where, name) for where, name in set_variables() if not name.startswith("POSTGRES_")}
    assert len(unknown) > 30
    assert {(where, name) for where, name in unknown if name not in known_variables()} == set()


def test_every_variable_that_is_read_is_documented() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "receiver").glob("*.py"))
    read = VARIABLES.keys() | set(re.findall(r"environ\.get\(\"([A-Z_]+)\"", sources))
    assert len(read) > 20
    assert read - known_variables() == set()


def test_example_environment_is_accepted_once_it_is_filled_in() -> None:
    for name in ("systemd/environment.example", "compose.env.example"):
        lines = re.findall(r"^([A-Z_]+)=(.*)$", (DEPLOY / name).read_text(), re.MULTILINE)
        filled = {variable: value or "x" * 40 for variable, value in lines}
        config = read_config(filled)
        assert config.public_url.startswith("https://"), "a redirected result_url is a lost result"


def test_every_command_exists(capsys: pytest.CaptureFixture[str]) -> None:
    found = list(commands())
    assert len(found) >= 8
    for command in found:
        if "gunicorn" in " ".join(command):
            assert tuple(command[-3:]) in (WEB, INTAKE)
            continue
        module, arguments = command[1:3], command[3:]
        assert module == ["-m", "receiver"], command
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--help"])
        assert ended.value.code == 0


def test_containers_run_without_root_and_with_a_read_only_file_system() -> None:
    assert re.search(r"^USER 10001:10001$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
    for name, service in compose()["services"].items():
        if name != "database":
            assert service["read_only"] and service["cap_drop"] == ["ALL"], name
    for name, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"], name
        for container in containers(pod):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"], name
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {"/data", "/tmp"} == {mount["mountPath"] for mount in container["volumeMounts"]}, name  # noqa: S108
            assert container["image"] == f"receiver:{__version__}"


def images() -> Iterator[tuple[str, str]]:
    """(file, image) for every image in deploy/."""
    for image in re.findall(r"^FROM (\S+)", (DEPLOY / "Containerfile").read_text(), re.MULTILINE):
        yield "Containerfile", image
    for service in compose()["services"].values():
        yield "compose.yaml", service["image"]
    for _, pod in pods():
        yield from (("receiver.yaml", container["image"]) for container in containers(pod))


def test_every_public_image_is_pinned_by_its_digest() -> None:
    ours = {"receiver", f"receiver:{__version__}"}
    found = [(where, image) for where, image in images() if image not in ours]
    assert {where for where, _ in found} == {"Containerfile", "compose.yaml"}
    for where, image in found:
        assert re.fullmatch(r"docker\.io/library/[a-z]+:[\w.-]+@sha256:[0-9a-f]{64}", image), (where, image)
    assert len({image for where, image in found if where == "Containerfile"}) == 1, "built and run on the same image"


def mebibytes(size: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(m|g|Mi|Gi)", size).groups()  # type: ignore[union-attr]
    return int(number) * (1024 if unit in ("g", "Gi") else 1)


def test_temporary_folder_of_web_has_room_for_the_largest_upload_and_all_have_a_limit() -> None:
    for name, service in compose()["services"].items():
        if name != "database":
            sizes = [size for each in service["tmpfs"] for size in re.findall(r"/tmp:.*size=(\w+)", each)]  # noqa: S108
            assert len(sizes) == 1, name
            assert name != "web" or mebibytes(sizes[0]) << 20 > UPLOAD_BYTES
    for name, pod in pods():
        limits = {volume["name"]: volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if "emptyDir" in volume}
        assert "tmp" in limits, name
        assert name != "receiver-web" or mebibytes(limits["tmp"]) << 20 > UPLOAD_BYTES


def test_metrics_are_blocked_from_outside_even_if_optional_parts_are_removed() -> None:
    assert re.search(r"METRICS_KEY: \$\{METRICS_KEY:\?", (DEPLOY / "compose.yaml").read_text()), (
        "compose must refuse an empty METRICS_KEY"
    )
    for name in ("receiver-web", "receiver-intake"):
        (container,) = dict(pods())[name]["containers"]
        (required,) = [each for each in container["env"] if each["name"] == "METRICS_KEY"]
        assert "optional" not in required["valueFrom"]["secretKeyRef"]
    ingresses = [item for item in kubernetes() if item["kind"] == "Ingress"]
    rules = [rule for ingress in ingresses for rule in ingress["spec"]["rules"]]
    paths = {each["path"]: each for rule in rules for each in rule["http"]["paths"]}
    closed = paths["/metrics"]["backend"]["service"]["name"]
    (nothing,) = [item for item in kubernetes() if item["kind"] == "Service" and item["metadata"]["name"] == closed]
    assert "selector" not in nothing["spec"], "the service for /metrics must have no pods"
    metrics = (DEPLOY / "nginx" / "receiver.conf").read_text().partition("location = /metrics {")[2].partition("}")[0]
    assert "deny  all;" in metrics


def test_network_policies_admit_only_ingress_and_prometheus_and_the_intake_reaches_only_the_database() -> None:
    policies = {item["metadata"]["name"]: item["spec"] for item in kubernetes() if item["kind"] == "NetworkPolicy"}
    common = policies["receiver"]
    assert common["podSelector"]["matchLabels"] == {"app": "receiver"}
    assert set(common["policyTypes"]) == {"Ingress", "Egress"} and "ingress" not in common, (
        "no connection from outside is allowed"
    )
    assert {port["port"] for rule in common["egress"] for port in rule["ports"]} == {53, 5432}
    https = policies["receiver-https"]
    assert {port["port"] for rule in https["egress"] for port in rule["ports"]} == {443}
    assert {"key": "part", "operator": "NotIn", "values": ["intake"]} in https["podSelector"]["matchExpressions"]
    for part in ("web", "intake"):
        policy = policies[f"receiver-{part}"]
        assert policy["podSelector"]["matchLabels"] == {"app": "receiver", "part": part}
        (rule,) = policy["ingress"]
        assert all("namespaceSelector" in each for each in rule["from"])
    for name, item in ((item["metadata"]["name"], item) for item in kubernetes()):
        if "template" in item.get("spec", {}):
            assert item["spec"]["template"]["metadata"]["labels"]["app"] == "receiver", name


def test_only_migrate_has_the_password_of_the_owner() -> None:
    role = {name: re.findall(r"//(\w+):", service["environment"].get("DATABASE_URL", "")) for name, service in
            compose()["services"].items()}  # fmt: skip
    assert role["migrate"] == ["receiver"]
    assert role["web"] == role["intake"] == role["worker"] == ["receiver_app"]
    for _, pod in pods():
        for container in containers(pod):
            secrets = [each["secretRef"]["name"] for each in container["envFrom"] if "secretRef" in each]
            expected = {"migrate": ["receiver", "receiver-migrate"], "intake": [], "check-intake": []}
            assert secrets == expected.get(container["name"], ["receiver"]), container["name"]
    for unit in UNITS:
        has = "EnvironmentFile=-/etc/receiver/migrate" in unit.read_text().splitlines()
        assert has == (unit.name == "receiver-migrate.service"), unit.name
    addresses = dict(_lines("systemd/environment.example")), dict(_lines("systemd/migrate.example"))
    assert [each["DATABASE_URL"].partition("://")[2].partition(":")[0] for each in addresses] == [
        "receiver_app", "receiver",
    ]  # fmt: skip


CHECK = ["-m", "receiver", "doctor", "--deploy"]


def test_every_release_checks_the_settings_of_web_and_intake_after_the_migrations() -> None:
    (release,) = re.findall(r"^release: (.*)$", (ROOT / "Procfile").read_text(), re.MULTILINE)
    assert release == f"python -m receiver migrate && python {' '.join(CHECK)}"

    check = _unit("receiver-check@.service")
    assert check["ExecStart"][0].split()[1:] == CHECK and check["Type"] == ["oneshot"]
    assert "receiver-migrate.service" in check["After"][0].split()
    common, own = check.pop("EnvironmentFile")
    assert own == "-/etc/receiver/%i"
    web, intake = (_unit(f"receiver-{name}.service") for name in ("web", "intake"))
    assert web["EnvironmentFile"] == [common] and intake["EnvironmentFile"] == [common, "/etc/receiver/intake"]
    assert all(check[name] == web[name] == intake[name] for name in ("User", "StateDirectory", "UMask"))

    services = compose()["services"]
    check, web, intake = services["check"], services["web"], services["intake"]
    assert check["command"][1:] == CHECK and check["profiles"] == ["release"]
    assert check["environment"] == web["environment"] and check["volumes"] == web["volumes"] == intake["volumes"]
    checked = {**check["environment"], "WEB_CONCURRENCY": "2"}
    assert checked.items() >= intake["environment"].items(), "otherwise the intake needs its own check"
    assert "migrate" in check["depends_on"]

    release_pod = dict(pods())["receiver-release"]
    migrate, check_intake, check_web = containers(release_pod)
    assert migrate["command"][-1] == "migrate"
    for check, name in ((check_intake, "intake"), (check_web, "web")):
        (container,) = dict(pods())[f"receiver-{name}"]["containers"]
        assert check["command"][1:] == CHECK and check["envFrom"] == container["envFrom"]
        assert check.get("env", []) == (container["env"] if name == "intake" else [])


def test_intake_has_its_own_processes_without_the_provider_key() -> None:
    services, units = compose()["services"], {name: _unit(f"receiver-{name}.service") for name in ("web", "intake")}
    assert units["web"]["ExecStart"][0].endswith(shlex.join(WEB))
    assert units["intake"]["ExecStart"][0].endswith(shlex.join(INTAKE))
    assert services["intake"]["command"] == ["gunicorn", *INTAKE] and "command" not in services["web"]
    assert units["intake"]["UnsetEnvironment"] == ["PLUM_USER PLUM_KEY"]
    assert not {"PLUM_USER", "PLUM_KEY"} & services["intake"]["environment"].keys()
    (container,) = dict(pods())["receiver-intake"]["containers"]
    assert container["command"] == ["gunicorn", *INTAKE]
    assert {each["name"] for each in container["env"]} == {
        "DATABASE_URL",
        "SECRET_KEY",
        "METRICS_KEY",
        "WEB_CONCURRENCY",
    }


def test_all_files_use_the_same_ports() -> None:
    sites = (DEPLOY / "nginx" / "receiver.conf").read_text()
    upstreams = dict(re.findall(r"^upstream (\w+) \{\n\s*server 127\.0\.0\.1:(\d+) ", sites, re.MULTILINE))
    web, intake = upstreams["receiver"], upstreams["receiver_intake"]
    assert f"server 127.0.0.1:{web} max_fails=0 backup;" in sites, "web receives callbacks while the intake restarts"

    assert _unit("receiver-web.socket")["ListenStream"] == [f"127.0.0.1:{web}"]
    listens = dict(_lines("systemd/intake.example"))
    assert (listens["BIND"], listens["PORT"]) == ("127.0.0.1", intake)
    services = compose()["services"]
    assert services["web"]["ports"] == [f"127.0.0.1:{web}:8000"]
    assert services["intake"]["ports"] == [f"127.0.0.1:{intake}:8000"]
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    targets = prometheus["scrape_configs"][0]["static_configs"][0]["targets"]
    assert targets == [f"127.0.0.1:{web}", f"127.0.0.1:{intake}"]

    for name in ("web", "intake"):
        (container,) = dict(pods())[f"receiver-{name}"]["containers"]
        assert container["ports"] == [{"name": "http", "containerPort": 8000}]


def test_only_results_go_to_the_intake_and_may_be_sent_twice() -> None:
    sites = (DEPLOY / "nginx" / "receiver.conf").read_text()
    location = sites.partition("location /results/ {")[2].partition("}")[0]
    assert "proxy_pass http://receiver_intake;" in location and "non_idempotent" in location
    assert (sites.count("http://receiver_intake;"), sites.count("non_idempotent")) == (1, 1)
    assert f"client_max_body_size {BODY_BYTES >> 10}k;" in location

    services = {item["metadata"]["name"]: item for item in kubernetes() if item["kind"] == "Service"}
    sets = {item["metadata"]["name"]: item for item in kubernetes() if item["kind"] == "StatefulSet"}
    routes = {}
    for item in kubernetes():
        if item["kind"] != "Ingress":
            continue
        (rule,) = item["spec"]["rules"]
        annotations = {name.rpartition("/")[2]: value for name, value in item["metadata"]["annotations"].items()}
        for each in rule["http"]["paths"]:
            routes[each["path"]] = (each["backend"]["service"]["name"], annotations)
        assert ("non_idempotent" in annotations.get("proxy-next-upstream", "")) == ("/results/" in routes and
            item["metadata"]["name"] == "receiver-results")  # fmt: skip
    service, annotations = routes["/results/"]
    assert service == "receiver-intake" and annotations["proxy-body-size"] == f"{BODY_BYTES >> 10}k"
    assert routes["/"][0] == "receiver"
    for name, part in (("receiver", "web"), ("receiver-intake", "intake")):
        labels = sets[f"receiver-{part}"]["spec"]["template"]["metadata"]["labels"]
        assert services[name]["spec"]["selector"] == labels == {"app": "receiver", "part": part}
        assert sets[f"receiver-{part}"]["spec"]["serviceName"] == name


def test_services_that_restart_automatically_do_not_depend_on_the_check() -> None:
    """They must start without the database, and a failed check must not stop processes with old settings."""
    for name in ("web", "intake", "worker"):
        unit = (DEPLOY / "systemd" / f"receiver-{name}.service").read_text()
        assert "receiver-check" not in unit and "doctor" not in unit
        assert set(compose()["services"][name]["depends_on"]) == {"migrate"}
        assert "initContainers" not in dict(pods())[f"receiver-{name}"]


def _unit(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", (DEPLOY / "systemd" / name).read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", ["receiver-web", "receiver-intake"])
def test_no_probe_removes_a_pod_while_the_database_is_unavailable(name: str) -> None:
    (container,) = dict(pods())[name]["containers"]
    probes = [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")]
    assert probes == ["/healthz"] * 3
    kinds = [item["kind"] for item in kubernetes() if item["metadata"]["name"] == name]
    assert "StatefulSet" in kinds and "Deployment" not in kinds, "each pod needs its own disk, which outlives it"
    assert "PodDisruptionBudget" in kinds


def test_every_stop_timeout_is_longer_than_the_processes_need() -> None:
    stop_seconds = int(next(value for name, value in _lines("systemd/environment.example") if name == "STOP_SECONDS"))
    for unit in UNITS:
        for seconds in re.findall(r"^TimeoutStopSec=(\d+)$", unit.read_text(), re.MULTILINE):
            assert int(seconds) > stop_seconds + 5
    settings = next(item["data"] for item in kubernetes() if item["kind"] == "ConfigMap")
    for name, pod in pods():
        if name != "receiver-release":
            assert pod["terminationGracePeriodSeconds"] > int(settings["STOP_SECONDS"]) + 8
    in_image = re.search(r"STOP_SECONDS=(\d+)", (DEPLOY / "Containerfile").read_text())
    assert in_image is not None
    for name in ("web", "intake", "worker"):
        assert int(compose()["services"][name]["stop_grace_period"].rstrip("s")) > int(in_image[1]) + 5


def _lines(name: str) -> list[tuple[str, str]]:
    return re.findall(r"^([A-Z_]+)=(.*)$", (DEPLOY / name).read_text(), re.MULTILINE)


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian: systemd)"
)
def test_units_are_valid_and_well_protected(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to("/bin/true")
    for unit in [*UNITS, *(DEPLOY / "systemd").glob("*.socket")]:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/receiver/.venv/bin/python", str(python)))
    for unit in UNITS:
        copy = tmp_path / unit.name
        # Without the machine's own service manager, which may not exist.
        environment = {"PATH": os.environ["PATH"], "SYSTEMD_LOG_LEVEL": "warning"}
        verified = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(copy)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        warnings = [line for line in verified.stderr.splitlines() if unit.name in line]
        assert warnings == []
        rated = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(copy)],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        assert rated.returncode == 0, rated.stdout[-2000:]
