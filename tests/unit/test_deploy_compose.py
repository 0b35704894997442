"""docker-compose.yml as it lies here, without Docker; test_deploy_containers.py runs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.config import load

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
# They write into their own directories when they start.
WRITES_TO_ITSELF = {"kafka", "connect"}


def test_the_profiles_are_those_that_are_documented() -> None:
    profiles = {profile for service in SERVICES.values() for profile in service["profiles"]}
    assert profiles == {"direct", "debezium", "observability"}


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_and_can_be_replaced(name: str) -> None:
    match = re.fullmatch(r"\$\{[A-Z]+_IMAGE:-([^:}]+):([^:}]+)\}", SERVICES[name]["image"])
    assert match is not None
    assert re.search(r"\d+\.\d+", match[2]), "a version, not a moving tag"
    assert "pull_policy" not in SERVICES[name]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is (name not in WRITES_TO_ITSELF)
    assert service["mem_limit"] and service["pids_limit"]
    assert "privileged" not in service
    if service.get("user", "").startswith("0"):
        assert service["network_mode"] == "none", "root, but of an empty machine"
        assert set(service.get("cap_add", ())) <= {"CHOWN"}


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_only(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+_PORT:-\d+\}:\d+", port)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_healthy_or_ends_and_is_waited_for_as_that(name: str) -> None:
    for other, wanted in SERVICES[name].get("depends_on", {}).items():
        ends = SERVICES[other].get("healthcheck") == {"disable": True}
        expected = "service_completed_successfully" if ends else "service_healthy"
        assert wanted == {"condition": expected}, other
    if SERVICES[name].get("restart") == "unless-stopped":
        assert SERVICES[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_are_files_and_each_service_has_its_own(name: str) -> None:
    service = SERVICES[name]
    for variable, value in service.get("environment", {}).items():
        secret = re.search(r"PASSWORD|API_KEY|SECRET|TOKEN", variable)
        assert not secret or variable.endswith("_FILE"), variable
        assert "://" not in value or "@" not in value.split("://")[1]
    mounted = [str(volume) for volume in service.get("volumes", ()) if "-secrets:" in str(volume)]
    if name != "secrets":
        assert len(mounted) <= 1
        assert all(volume.endswith(":ro") for volume in mounted)


def test_volumes_and_files_that_are_named_are_there() -> None:
    used = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", ())
        if not volume.startswith("./")
    }
    assert used == set(COMPOSE["volumes"])
    for config in COMPOSE["configs"].values():
        assert (ROOT / config["file"]).is_file()
    mounted = {one["source"] for s in SERVICES.values() for one in s.get("configs", ())}
    assert mounted == set(COMPOSE["configs"])


@pytest.mark.parametrize("file", ["bridge.yaml", "bridge-debezium.yaml"])
def test_the_configurations_are_ones_that_the_bridge_takes(file: str, tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "compose" / file).read_text()
    (tmp_path / "postgres_url").write_text("postgresql://bridge@postgres/app")
    (tmp_path / "qdrant_api_key").write_text("a key")
    (tmp_path / file).write_text(text.replace("/run/secrets", str(tmp_path)))
    settings = load(tmp_path / file, {}, {}).settings
    assert settings.qdrant.url.startswith("https://")
    assert settings.allow_plaintext is settings.skip_tls_verification is False
    assert settings.http.hold_on_stop is True
