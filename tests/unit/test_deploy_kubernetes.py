"""The chart and what it renders: as it lies here, and by Helm and Kubernetes' schemas where they are.

Helm is looked for as `helm`, the validator as `kubernetes-validate` (PyPI), beside this interpreter or
on the path.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.programs import program

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "qdrant-bridge"
RENDERED = ROOT / "deploy" / "kubernetes" / "qdrant-bridge.yaml"
VERSIONS = ("1.25", "1.34")


HELM, VALIDATE = program("helm"), program("kubernetes-validate")
needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed")


def documents(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]


def kinds(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in found}


def rendered() -> dict[str, dict[str, Any]]:
    return kinds(documents(RENDERED.read_text()))


def pod_specs(found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "Deployment", found["Deployment"]["spec"]["template"]["spec"]
    yield "Job", found["Job"]["spec"]["template"]["spec"]
    yield "CronJob", found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def helm(*arguments: str, fails: bool = False) -> str:
    assert HELM is not None
    done = subprocess.run(
        [
            HELM,
            "template",
            "shop",
            str(CHART),
            "--kube-version",
            "1.34.0",
            "--namespace",
            "qdrant-bridge",
            *arguments,
        ],
        capture_output=True,
        text=True,
    )
    assert (done.returncode != 0) is fails, done.stderr
    return done.stderr if fails else done.stdout


# --- as it lies here ------------------------------------------------------------------------------


def test_it_has_everything_that_a_pipeline_needs() -> None:
    assert set(rendered()) == {
        "ConfigMap",
        "CronJob",
        "Deployment",
        "Job",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    }


def test_every_pod_runs_without_privileges() -> None:
    for name, spec in pod_specs(rendered()):
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
            assert container["resources"]["requests"]["cpu"], name
            assert "env" not in container, "secrets are files"


def test_the_copy_is_an_indexed_job_whose_parts_are_its_pods() -> None:
    spec = rendered()["Job"]["spec"]
    assert spec["completionMode"] == "Indexed"
    (container,) = spec["template"]["spec"]["containers"]
    shard = container["args"][container["args"].index("--shard") + 1]
    assert shard == f"/{spec['completions']}"
    assert spec["parallelism"] == spec["completions"]


def test_one_process_writes_and_the_old_one_goes_first() -> None:
    spec = rendered()["Deployment"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > 30


def test_probes_ask_what_they_should() -> None:
    (container,) = rendered()["Deployment"]["spec"]["template"]["spec"]["containers"]
    paths = {name: container[name]["httpGet"]["path"] for name in container if "Probe" in name}
    # A daemon that waits for Qdrant is alive, and not ready.
    assert paths == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }


def test_selectors_find_the_daemon_and_nothing_else() -> None:
    found = rendered()
    daemon = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    others = [
        found["Job"]["spec"]["template"]["metadata"]["labels"],
        found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"],
    ]
    for selector in (
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["Deployment"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= daemon.items()
        assert not any(selector.items() <= labels.items() for labels in others)
    everyone = found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    assert all(everyone.items() <= labels.items() for labels in (daemon, *others))


def test_the_policy_lets_in_scrapers_and_out_to_the_two_databases() -> None:
    spec = rendered()["NetworkPolicy"]["spec"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    out = {port["port"] for rule in spec["egress"] for port in rule["ports"]}
    assert out == {53, 5432, 6334}
    assert {port["port"] for rule in spec["ingress"] for port in rule["ports"]} == {8080}


def test_the_configuration_is_one_that_the_bridge_takes(tmp_path: Path) -> None:
    from bridge.config import load

    config = yaml.safe_load(rendered()["ConfigMap"]["data"]["bridge.yaml"])
    for section, name in (("postgres", "url_file"), ("qdrant", "api_key_file")):
        path = tmp_path / name
        path.write_text("postgresql://me@db/app" if section == "postgres" else "a key")
        config[section][name] = str(path)
    file = tmp_path / "bridge.yaml"
    file.write_text(yaml.safe_dump(config))
    settings = load(file, {}, {}).settings
    assert settings.http.listen == "0.0.0.0:8080"
    assert settings.http.hold_on_stop is True


def test_the_charts_alerts_and_version_are_the_projects() -> None:
    import tomllib

    assert (CHART / "rules.yml").read_text() == (
        ROOT / "deploy" / "prometheus" / "rules.yml"
    ).read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == project["version"]
    assert f"qdrant-bridge:{project['version']}" in (ROOT / "docker-compose.yml").read_text()
    assert f"ARG VERSION={project['version']}\n" in (ROOT / "deploy" / "Dockerfile").read_text()


# --- with Helm ------------------------------------------------------------------------------------


@needs_helm
def test_the_rendered_file_is_what_the_chart_gives() -> None:
    text = RENDERED.read_text()
    assert text[text.index("---\n") :] == helm()


@needs_helm
def test_helm_finds_nothing_to_complain_of() -> None:
    assert HELM is not None
    done = subprocess.run([HELM, "lint", "--strict", str(CHART)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@needs_helm
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("sync.replicas=2", "LEASE_HELD"),
        ("config.sync.source=debezium", "backfill.enabled"),
        ("backfill.shards=0", "backfill/shards"),
        ("sync.terminationGracePeriodSeconds=10", "terminationGracePeriodSeconds"),
        ("nonsense=1", "nonsense"),
    ],
)
def test_values_that_cannot_be_are_refused(change: str, told: str) -> None:
    assert told in helm("--set", change, fails=True)


@needs_helm
def test_from_kafka_several_processes_share_the_work() -> None:
    flags = ("config.sync.source=debezium", "backfill.enabled=false", "sync.replicas=3")
    found = kinds(documents(helm(*(part for flag in flags for part in ("--set", flag)))))
    spec = found["Deployment"]["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (3, "RollingUpdate")
    assert spec["template"]["spec"]["containers"][0]["args"][0] == "run"
    assert "Job" not in found


@needs_helm
def test_monitoring_is_made_where_it_is_asked_for() -> None:
    flags = ("metrics.serviceMonitor.enabled=true", "metrics.rules.enabled=true")
    text = helm(*(part for flag in flags for part in ("--set", flag)),
                "--set", "metrics.rules.runbooks=https://docs.internal/")  # fmt: skip
    found = kinds(documents(text))
    (endpoint,) = found["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "qdrant-bridge"}]
    (group,) = found["PrometheusRule"]["spec"]["groups"]
    for rule in group["rules"]:
        assert rule["annotations"]["runbook_url"].startswith("https://docs.internal/docs/")
    selector = found["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
    assert selector.items() <= found["Service"]["metadata"]["labels"].items()


@pytest.mark.skipif(VALIDATE is None, reason="kubernetes-validate is not installed (PyPI)")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_rendered_file_fits_the_schemas_of_kubernetes(version: str) -> None:
    assert VALIDATE is not None
    done = subprocess.run(
        [VALIDATE, "--strict", "-k", version, str(RENDERED)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
