"""The manifests for Kubernetes: what its API server would take, and what keeps guests alive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from etcdlock.config import load

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
VERSIONS = ("1.30", "1.36")
OF_KUSTOMIZE = "kustomization.yaml"


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


FILES: list[str] = documents(OF_KUSTOMIZE)[0]["resources"]
ALL = {f"{name}: {found['kind']}": found for name in FILES for found in documents(name)}


def daemon(name: str) -> Any:
    (found,) = documents(f"{name}.yaml")
    return found["spec"]


def container(name: str) -> Any:
    (found,) = daemon(name)["template"]["spec"]["containers"]
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ALL)
def test_the_api_server_takes_every_document(name: str, version: str) -> None:
    """By the schemas that Kubernetes publishes; a field that they do not know is a mistake."""
    kubernetes_validate.validate(ALL[name], version, strict=True)


def test_the_schemas_do_find_a_mistake() -> None:
    wrong = documents("guard.yaml")[0]
    wrong["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_every_file_is_applied() -> None:
    assert sorted([*FILES, OF_KUSTOMIZE]) == sorted(path.name for path in FOLDER.glob("*.yaml"))


def test_a_guard_is_never_replaced_by_itself_and_the_agents_one_node_at_a_time() -> None:
    assert daemon("guard")["updateStrategy"] == {"type": "OnDelete"}
    assert daemon("agent")["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


@pytest.mark.parametrize("name", ["agent", "guard"])
def test_a_pod_sees_the_nodes_processes_stays_on_a_drained_node_and_has_no_token(name: str) -> None:
    pod = daemon(name)["template"]["spec"]
    assert (pod["hostPID"], pod["tolerations"]) == (True, [{"operator": "Exists"}])
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["automountServiceAccountToken"] is False
    assert daemon(name)["selector"]["matchLabels"] == daemon(name)["template"]["metadata"]["labels"]


@pytest.mark.parametrize("name", ["agent", "guard"])
def test_a_container_has_the_capabilities_it_needs_and_no_others(name: str) -> None:
    rights = container(name)["securityContext"]
    assert (rights["allowPrivilegeEscalation"], rights["readOnlyRootFilesystem"]) == (False, True)
    assert rights["capabilities"]["drop"] == ["ALL"]
    assert "SYS_ADMIN" not in rights["capabilities"]["add"]
    assert rights.get("privileged") is None


def test_nobody_is_given_secrets_or_a_shell_on_the_nodes() -> None:
    (role,) = (found for found in documents("rbac.yaml") if found["kind"] == "Role")
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert {"secrets", "pods/exec"} & {name for rule in role["rules"] for name in rule["resources"]} == set()


def test_the_settings_are_settings_and_agent_and_guard_meet(tmp_path: Path) -> None:
    (found,) = documents("settings.yaml")
    file = tmp_path / "etcdlock.toml"
    file.write_text(found["data"]["etcdlock.toml"], encoding="utf-8")
    settings = load(file=file, environment={})
    assert settings.guard_path == container("guard")["command"][-1]
    mounted = {mount["mountPath"] for mount in container("agent")["volumeMounts"]}
    assert {str(Path(settings.run_folder)), str(Path(settings.key_file).parent), "/etc/machine-id"} <= mounted
    assert {settings.run_folder} <= {mount["mountPath"] for mount in container("guard")["volumeMounts"]}
    tls = next(volume for volume in daemon("agent")["template"]["spec"]["volumes"] if volume["name"] == "tls")
    assert tls["secret"]["defaultMode"] == 0o400
