"""deploy/kubernetes/: valid by the API's schemas, and of one mind with the code."""

import re
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from app import gunicorn_conf
from app.cli.main import main
from app.config import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.30", kubernetes_validate.latest_version())


def objects() -> list[dict[str, Any]]:
    """Return what the kustomization names."""
    names = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    return [found for name in names for found in yaml.safe_load_all((FOLDER / name).read_text())]


def pods() -> dict[str, dict[str, Any]]:
    """Return the pod of each object that has one."""
    found = {}
    for one in objects():
        spec = one.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            found[one["metadata"]["name"]] = spec["template"]["spec"]
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_all_objects_are_valid_by_the_schemas_of_kubernetes(version):
    kinds = [one["kind"] for one in objects()]
    assert set(kinds) == {
        *("Namespace", "Deployment", "Service", "PodDisruptionBudget", "Job", "CronJob")
    }
    for one in objects():
        kubernetes_validate.validate(one, version, strict=True)


def test_the_schemas_would_find_a_mistake():
    (deployment,) = [one for one in objects() if one["kind"] == "Deployment"]
    deployment["spec"]["replicsa"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


def test_every_pod_is_shut_in_and_has_a_folder_to_write_to():
    assert len(pods()) == 4
    for name, pod in pods().items():
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"], name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert pod["securityContext"]["runAsNonRoot"]
        assert [one["mountPath"] for one in container["volumeMounts"]] == ["/tmp"]


def test_the_commands_are_there_and_only_the_migration_is_the_owner():
    for name, pod in pods().items():
        program, *arguments = pod["containers"][0]["args"]
        (secret,) = [one["secretRef"]["name"] for one in pod["containers"][0]["envFrom"]]
        assert secret.endswith("-owner") == name.endswith("-migrate")
        if program == "push-tokens":
            assert CliRunner().invoke(main, [*arguments, "--help"]).exit_code == 0


def test_a_pod_has_time_to_drain_and_to_end():
    pod = pods()["push-token-registry"]
    (container,) = pod["containers"]
    environ = {one["name"]: one["value"] for one in container["env"]}
    drain = int(environ["DRAIN_SECONDS"])
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    readiness = container["readinessProbe"]
    assert drain > 2 * readiness["periodSeconds"] * readiness["failureThreshold"]
    taken = pause + drain + gunicorn_conf.graceful_timeout
    assert pod["terminationGracePeriodSeconds"] > taken
    assert container["args"][-1] == "wsgi:app"
    image = re.search(r"uid (\d+)", (ROOT / "deploy" / "Containerfile").read_text())[1]
    assert pod["securityContext"]["runAsUser"] == int(image)
