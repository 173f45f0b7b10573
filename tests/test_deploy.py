"""What deploy/ tells Compose and Kubernetes is what zapq takes: variables, probes, the grace, the user."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from zapq.http.endpoints import ENDPOINTS
from zapq.quantities import parse_duration
from zapq.settings import Settings
from zapq.sources import load, unknown_variables

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy" / "kubernetes"
RECIPE = (ROOT / "Containerfile").read_text()
[USER] = re.findall(r"^USER (\d+):\1$", RECIPE, re.MULTILINE)
[VOLUME] = re.findall(r"^VOLUME (.*)$", RECIPE, re.MULTILINE)


def documents(name: str) -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all((KUBERNETES / name).read_text())}


def pod(name: str) -> dict[str, Any]:
    [workload] = [each for each in documents(name).values() if "template" in each["spec"]]
    found: dict[str, Any] = workload["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("name", ["server.yaml", "front-ends.yaml"])
class TestKubernetes:
    def test_probes_are_endpoints_and_liveness_needs_nobody_else(self, name: str) -> None:
        [container] = pod(name)["containers"]
        paths = {
            kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")
        }
        assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
        assert {*paths.values()} <= {endpoint.path for endpoint in ENDPOINTS}

    def test_it_runs_as_the_image_says_with_as_little_as_it_needs(self, name: str) -> None:
        spec = pod(name)
        assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["runAsGroup"] == int(USER)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        [container] = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip

    def test_it_has_longer_than_the_grace_to_end(self, name: str) -> None:
        assert pod(name)["terminationGracePeriodSeconds"] > Settings().grace

    def test_the_service_leads_to_it(self, name: str) -> None:
        about = documents(name)
        [workload] = [each for each in about.values() if "template" in each["spec"]]
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert about["Service"]["spec"]["selector"] == labels == workload["spec"]["selector"]["matchLabels"]
        [port] = pod(name)["containers"][0]["ports"]
        assert port["name"] == about["Service"]["spec"]["ports"][0]["targetPort"]
        assert f":{port['containerPort']}" == Settings().addr

    def test_its_variables_are_settings(self, name: str) -> None:
        image = dict(re.findall(r"(ZAPQ_\w+)=(\S+)", RECIPE[RECIPE.index("ENV ") :]))
        environ = image | {each["name"]: each["value"] for each in pod(name)["containers"][0].get("env", [])}
        assert unknown_variables(environ) == {}
        told = load(flags={}, environ=environ)
        assert told.durable == (name == "server.yaml")
        assert bool(told.engine) == (name == "front-ends.yaml")


def test_one_server_has_a_volume_where_the_image_keeps_its_queues() -> None:
    spec = documents("server.yaml")["StatefulSet"]["spec"]
    assert spec["replicas"] == 1
    [claim] = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    [mount] = pod("server.yaml")["containers"][0]["volumeMounts"]
    assert (mount["name"], mount["mountPath"]) == (claim["metadata"]["name"], VOLUME)


def test_compose_for_one_server_says_where_things_are() -> None:
    services = yaml.safe_load((ROOT / "deploy" / "compose-single.yaml").read_text())["services"]
    server = services["zapq"]
    assert (ROOT / "deploy" / server["build"]["context"] / server["build"]["dockerfile"]).exists()
    assert parse_duration(server["stop_grace_period"]) > Settings().grace
    assert server["volumes"] == [f"zapq:{VOLUME}"]
    for volume in services["prometheus"]["volumes"]:
        source = volume.split(":")[0]
        assert not source.startswith(".") or (ROOT / "deploy" / source).exists()
