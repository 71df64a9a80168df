"""The files of cluster/ are what the programs that read them expect, and name the versions that are tested."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERNETES = sorted((CLUSTER / "kuberay").glob("*.yaml"))
LAUNCHER = sorted((CLUSTER / "vm").glob("*.yaml"))
SHELL = sorted([*CLUSTER.glob("*/*.sh"), *CLUSTER.glob("*/*.sbatch")])


def name_of(path: Path) -> str:
    return path.stem


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


def cluster_of(path: Path) -> dict[str, Any]:
    spec = read(path)["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(path: Path) -> list[dict[str, Any]]:
    cluster = cluster_of(path)
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_there_are_files_of_each_kind() -> None:
    assert len(KUBERNETES) == 4
    assert len(LAUNCHER) == 3
    assert len(SHELL) == 2


def test_every_file_is_in_the_table_of_the_readme() -> None:
    readme = (CLUSTER / "README.md").read_text()
    files = [
        path.relative_to(CLUSTER)
        for path in CLUSTER.rglob("*")
        if path.is_file() and path.name != "README.md"
    ]
    assert [str(path) for path in files if f"`{path}`" not in readme] == []


@pytest.mark.parametrize("path", KUBERNETES, ids=name_of)
def test_kubernetes_files_name_the_ray_that_is_tested(path: Path) -> None:
    assert cluster_of(path)["rayVersion"] == pinned("ray")


def test_the_image_has_the_ray_that_is_tested() -> None:
    text = (CLUSTER / "docker/Dockerfile").read_text()
    assert set(re.findall(r"RAY=([0-9.]+)-", text)) == {pinned("ray")}


def test_the_image_installs_extras_that_exist() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = re.search(r"ARG EXTRAS=(.+)", (CLUSTER / "docker/Dockerfile").read_text())
    assert found
    assert set(found[1].split(",")) <= set(extras)


def test_the_image_copies_what_is_there() -> None:
    copied = re.findall(
        r"^COPY --chown=\S+ (.+) \S+$", (CLUSTER / "docker/Dockerfile").read_text(), re.MULTILINE
    )
    assert copied
    assert [name for line in copied for name in line.split() if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", KUBERNETES, ids=name_of)
def test_all_pods_have_one_image_and_the_shared_storage(path: Path) -> None:
    containers = [container for pod in pods(path) for container in pod["containers"]]
    assert len({container["image"] for container in containers}) == 1
    assert all(container["volumeMounts"] == containers[0]["volumeMounts"] for container in containers)
    assert all(pod["volumes"] == pods(path)[0]["volumes"] for pod in pods(path))


@pytest.mark.parametrize("path", KUBERNETES, ids=name_of)
def test_no_worker_fits_on_the_head_node_of_a_kubernetes_cluster(path: Path) -> None:
    assert cluster_of(path)["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_queued_job_differs_from_the_other_in_what_kueue_needs() -> None:
    plain, queued = (read(CLUSTER / f"kuberay/{name}.yaml") for name in ("rayjob", "rayjob_kueue"))
    assert queued["metadata"].pop("labels") == {"kueue.x-k8s.io/queue-name": "training"}
    assert queued["spec"].pop("suspend") is True
    for name in ("backoffLimit", "ttlSecondsAfterFinished"):
        plain["spec"].pop(name)
    assert queued == plain


def test_the_elastic_job_has_the_pods_that_its_command_allows() -> None:
    from transformers import HfArgumentParser

    from raytrainer import TrainingArguments

    given = read(CLUSTER / "kuberay/rayjob_elastic.yaml")
    (group,) = given["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    _, script, *flags = given["spec"]["entrypoint"].split()
    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses([*flags, "--use_cpu"])  # type: ignore[arg-type]
    assert script == "train.py"
    assert args.num_workers == (group["minReplicas"], group["maxReplicas"])
    assert group["replicas"] == group["maxReplicas"], "KubeRay replaces what is taken away"
    assert "spot" in str(group["template"]["spec"]["nodeSelector"])
    assert "spot" not in str(given["spec"]["rayClusterSpec"]["headGroupSpec"]), "the driver stays"


@pytest.mark.parametrize("path", LAUNCHER, ids=name_of)
def test_rays_launcher_takes_the_file(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(read(path)))


def test_rays_launcher_refuses_a_file_with_a_wrong_key() -> None:
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(jsonschema.ValidationError):
        validate_config(read(CLUSTER / "vm/aws.yaml") | {"max_worker": 4})


def test_ray_reads_the_runtime_environment() -> None:
    from ray.runtime_env import RuntimeEnv

    given = read(CLUSTER / "runtime_env.yaml")
    assert set(RuntimeEnv(**{**given, "working_dir": "s3://bucket/code.zip"})) >= {"env_vars", "excludes"}


@pytest.mark.parametrize("path", SHELL, ids=name_of)
def test_shell_files_parse(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=10)
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("path", SHELL, ids=name_of)
@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="there is no shellcheck")
def test_shellcheck_finds_nothing(path: Path) -> None:
    found = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True, check=False, timeout=30)
    assert found.stdout == ""


def _closed(schema: Any) -> Any:
    """A schema under which a field that it does not name is an error, as a misspelled one would be."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _closed(each) for name, each in schema.items()}
    if found.get("type") == "object" and "properties" in found:
        found.setdefault("additionalProperties", False)
    return found


@pytest.mark.parametrize("path", KUBERNETES, ids=name_of)
@pytest.mark.skipif(
    "KUBERAY_CHECKOUT" not in os.environ, reason="KUBERAY_CHECKOUT names no checkout of KubeRay"
)
def test_kuberays_schema_takes_the_file(path: Path) -> None:
    given = read(path)
    definition = f"ray-operator/config/crd/bases/ray.io_{given['kind'].lower()}s.yaml"
    versions = read(Path(os.environ["KUBERAY_CHECKOUT"]) / definition)["spec"]["versions"]
    (schema,) = (each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == "v1")
    schema["properties"].pop("metadata")
    strict = _closed(schema)
    strict["properties"]["metadata"] = {}
    wrong = copy.deepcopy(given)
    wrong["spec"]["no_such_field"] = 1
    assert not jsonschema.Draft202012Validator(strict).is_valid(wrong)
    jsonschema.validate(given, strict, jsonschema.Draft202012Validator)
