"""The image and the compose file's profiles `direct` and `observability`, built and run for real.

Where no image of Qdrant can be had, the test server stands in for it (`tests/support/stand_in`). The
profile `debezium` has a module of its own, since it takes longer.
"""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.docker import (
    GRAFANA_IMAGE,
    POSTGRES_IMAGES,
    PROMETHEUS_IMAGES,
    Compose,
    build_bridge,
    docker,
    image,
    missing_engine,
    qdrant_or_stand_in,
    ran,
)

pytestmark = pytest.mark.skipif(bool(missing_engine()), reason=missing_engine() or "it is here")

MEGABYTES = 250
# Alone on two cores 5 s, most of them Docker's, and 11 s; the other tests run beside it.
READY_SECONDS = 60.0
IN_SYNC_SECONDS = 180.0
CONFIG = "/etc/qdrant-bridge/bridge.yaml"


@pytest.fixture(scope="module")
def built() -> str:
    """The image, built from what is in the working tree."""
    tag = build_bridge()
    if tag is None:
        pytest.skip("no image of Python is here, and no registry can be reached")
    return tag


def shell(tag: str, script: str, *, read_only: bool = True) -> str:
    flags = ("--read-only",) if read_only else ()
    return ran("run", "--rm", *flags, "--entrypoint", "sh", tag, "-c", script)


# --- the image ------------------------------------------------------------------------------------


def test_the_image_is_small_and_says_what_it_is(built: str) -> None:
    (facts,) = json.loads(ran("image", "inspect", built))
    assert facts["Size"] / 1e6 <= MEGABYTES
    config = facts["Config"]
    labels = {name.rpartition(".")[2]: text for name, text in config["Labels"].items()}
    assert labels["title"] == "qdrant-bridge"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["revision"] == "abc123"
    assert config["Entrypoint"] == ["tini", "--", "qdrant-bridge"]
    assert config["User"] == "10001:10001"
    assert config["Healthcheck"]["Test"][0] == "CMD"


def test_the_image_has_no_compiler_no_package_manager_and_nobody_else_to_be(built: str) -> None:
    found = shell(
        built, "for p in cc gcc ld pip apt-get perl; do command -v $p || true; done; id -u"
    )
    assert found == "10001"
    assert shell(built, "find / -xdev -perm /6000 -type f 2>/dev/null || true") == ""
    places = shell(built, _WRITABLE, read_only=False).split()
    mine = {place for place in places if place.startswith("/var/lib/qdrant-bridge")}
    assert set(places) - mine <= {"/tmp", "/var/tmp", "/run/lock", "/var/lock"}


_WRITABLE = (
    "find / -xdev \\( -path /proc -o -path /dev -o -path /sys \\) -prune -o"
    " -writable -not -type l -print 2>/dev/null || true"
)


def test_the_command_is_the_image(built: str) -> None:
    assert ran("run", "--rm", "--read-only", built, "--version").startswith("qdrant-bridge ")
    assert "backfill" in ran("run", "--rm", "--read-only", "--network", "none", built)


def test_every_locked_package_is_there_in_the_locked_version(built: str) -> None:
    script = (
        "python - <<'E'\n"
        "from importlib.metadata import distributions\n"
        "print(*sorted(f\"{d.name.lower().replace('_', '-')}=={d.version}\" for d in distributions()))\n"
        "E"
    )
    installed = set(shell(built, script).split())
    wanted = docker("run", "--rm", "-v", ".:/src:ro", "--entrypoint", "python", built,
                    "/src/script/runtime-lock").stdout  # fmt: skip
    pins = {line.split()[0] for line in wanted.splitlines() if line[:1].isalpha()}
    ours = {pin for pin in installed if pin.startswith("qdrant-bridge==")}
    assert len(ours) == 1
    assert installed - ours <= pins
    assert {pin.partition("==")[0] for pin in pins} == {
        pin.partition("==")[0] for pin in installed - ours
    }


# --- the compose file -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def direct(built: str) -> Iterator[Compose]:
    postgres = image(*POSTGRES_IMAGES)
    if postgres is None:
        pytest.skip("no image of Postgres with pgvector is here, and no registry can be reached")
    images = {
        "BRIDGE_IMAGE": built,
        "POSTGRES_IMAGE": postgres,
        "QDRANT_IMAGE": qdrant_or_stand_in(built),
        "PROMETHEUS_IMAGE": image(*PROMETHEUS_IMAGES) or "",
    }
    compose = Compose("qdrant-bridge-under-test", "direct", images)
    compose.down()
    try:
        yield compose
    finally:
        compose.down()


@pytest.fixture(scope="module")
def up(direct: Compose) -> Compose:
    """In sync, from nothing but images."""
    began = time.monotonic()
    direct("up", "--detach", "--wait", "--no-build")
    assert time.monotonic() - began <= IN_SYNC_SECONDS
    return direct


def bridge(compose: Compose, *arguments: str) -> str:
    return compose("exec", "-T", "sync", "qdrant-bridge", *arguments, "--config", CONFIG)


def require_equal(compose: Compose) -> int:
    """Wait for this moment, compare everything; the number of rows."""
    bridge(compose, "status", "--wait", "now", "--timeout", "60")
    report = json.loads(bridge(compose, "verify", "--json"))
    assert report["equal"] is True
    rows: int = report["tables"]["public.packages"]["source"]
    assert rows == int(compose.psql("SELECT count(*) FROM packages"))
    return rows


def page(compose: Compose, path: str) -> str:
    url = f"http://127.0.0.1:{compose.ports['BRIDGE_PORT']}{path}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def test_up_ends_in_sync_and_says_where_to_look(up: Compose) -> None:
    assert f"http://127.0.0.1:{up.ports['BRIDGE_PORT']}" in up("logs", "--no-color", "where")
    assert json.loads(page(up, "/readyz"))["ready"] is True
    assert require_equal(up) == 3000


def test_changes_arrive(up: Compose) -> None:
    up.psql(
        "UPDATE packages SET summary = summary || '!' WHERE id % 3 = 0",
        "DELETE FROM packages WHERE id % 10 = 1",
        "UPDATE packages SET id = id + 500000 WHERE id % 10 = 2",
    )
    up.psql(
        "INSERT INTO packages (id, package) SELECT 900000 + i, 'p' || i FROM generate_series(1, 50) i"
    )
    require_equal(up)
    assert up.psql("SELECT count(*) FROM packages WHERE id > 900000").strip() == "50"


def test_containers_have_no_privileges_and_publish_to_loopback_only(up: Compose) -> None:
    ids = up("ps", "--all", "--quiet").split()
    assert len(ids) >= 8
    for container in json.loads(ran("inspect", *ids)):
        host, name = container["HostConfig"], container["Name"]
        assert host["ReadonlyRootfs"] is True, name
        assert host["CapDrop"] == ["ALL"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["Memory"] > 0 and host["PidsLimit"] > 0, name
        runs_on = container["State"]["Running"]
        assert not (runs_on and container["Config"]["User"].startswith(("0", "root"))), name
        for bindings in (host["PortBindings"] or {}).values():
            assert {binding["HostIp"] for binding in bindings} == {"127.0.0.1"}, name


def test_no_secret_is_in_what_docker_shows_or_the_containers_say(up: Compose) -> None:
    script = "cat /run/secrets/postgres_url /run/secrets/qdrant_api_key"
    url, key = up("exec", "-T", "sync", "sh", "-c", script).split()
    password = url.split(":")[2].split("@")[0]
    ids = up("ps", "--all", "--quiet").split()
    shown = ran("inspect", *ids) + up("logs", "--no-color") + bridge(up, "config")
    shown += "".join(page(up, path) for path in ("/status.json", "/metrics", "/readyz", "/"))
    for secret in (password, key):
        assert len(secret) > 20
        assert secret not in shown


def test_prometheus_scrapes_the_daemon_and_no_alert_fires(up: Compose) -> None:
    if image(*PROMETHEUS_IMAGES) is None:
        pytest.skip("no image of Prometheus is here, and no registry can be reached")
    up("--profile", "observability", "up", "--detach", "--wait", "--no-build", "prometheus")
    # It scrapes every five seconds, and tells nobody when it has.
    deadline = time.monotonic() + 60
    while not (found := asked(up, "up{job='qdrant-bridge'} == 1")):
        assert time.monotonic() < deadline, "the daemon was never scraped"
        time.sleep(0.5)
    assert found[0]["metric"]["instance"] == "sync"
    assert asked(up, "qdrant_bridge_info")[0]["metric"]["pipeline"] == "sample"
    assert asked(up, "ALERTS{alertstate='firing'}") == []


def test_grafana_has_the_dashboard(up: Compose) -> None:
    if image(GRAFANA_IMAGE) is None or image(*PROMETHEUS_IMAGES) is None:
        pytest.skip("no image of Grafana is here, and no registry can be reached")
    up("--profile", "observability", "up", "--detach", "--wait", "--no-build")
    url = f"http://127.0.0.1:{up.ports['GRAFANA_PORT']}/api/dashboards/uid/qdrant-bridge"
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert json.load(answer)["dashboard"]["panels"]


def asked(compose: Compose, expression: str) -> list[dict[str, Any]]:
    query = urllib.parse.urlencode({"query": expression})
    url = f"http://127.0.0.1:{compose.ports['PROMETHEUS_PORT']}/api/v1/query?{query}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def test_after_kills_it_is_equal_again(up: Compose) -> None:
    up("kill", "sync", "qdrant")
    up.psql("DELETE FROM packages WHERE id % 10 = 3")
    up("kill", "postgres")
    up("up", "--detach", "--wait", "--no-build")
    require_equal(up)
    assert "copied before" in up("logs", "--no-color", "backfill")


def test_a_stopped_daemon_ends_with_0_and_is_ready_soon_after_its_start(up: Compose) -> None:
    up("stop", "sync")
    (container,) = up("ps", "--all", "--quiet", "sync").split()
    (facts,) = json.loads(ran("inspect", container))
    assert facts["State"]["ExitCode"] == 0
    began = datetime.now(UTC)
    up("start", "sync")
    up.wait_line("sync", '"streaming"', began)
    assert json.loads(page(up, "/readyz"))["ready"] is True
    assert (datetime.now(UTC) - began).total_seconds() <= READY_SECONDS
    require_equal(up)
