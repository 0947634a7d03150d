"""cluster.yaml: Ray's own schema, then what that schema does not look at."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PATH = ROOT / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(PATH.read_text())
    return loaded


@cache
def instance_shape() -> Any:
    """The members that EC2's RunInstances accepts, from botocore's own service model."""
    loaders = pytest.importorskip("botocore.loaders")
    model = pytest.importorskip("botocore.model")
    data = loaders.Loader().load_service_model("ec2", "service-2")
    return model.ServiceModel(data).shape_for("RunInstancesRequest")


def node_configs(cluster: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(k, v["node_config"]) for k, v in cluster["available_node_types"].items()]


def schema_errors(config: dict[str, Any]) -> str:
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(config))
    except Exception as error:
        return type(error).__name__
    return ""


def test_rays_schema_accepts_it(cluster: dict[str, Any]) -> None:
    assert schema_errors(cluster) == ""


def test_rays_schema_refuses_a_misspelt_key(cluster: dict[str, Any]) -> None:
    cluster["max_wokers"] = cluster.pop("max_workers")
    assert schema_errors(cluster) == "ValidationError"


def test_every_node_key_is_one_that_ec2_knows(cluster: dict[str, Any]) -> None:
    for name, node in node_configs(cluster):
        unknown = set(node) - set(instance_shape().members)
        assert not unknown, f"{name}: {unknown}"


def test_every_node_type_names_an_instance_type_that_ec2_knows(cluster: dict[str, Any]) -> None:
    known = instance_shape().members["InstanceType"].enum
    for name, node in node_configs(cluster):
        assert node["InstanceType"] in known, name


def test_workers_are_spot_instances_and_the_head_is_not(cluster: dict[str, Any]) -> None:
    head = cluster["head_node_type"]
    for name, node in node_configs(cluster):
        market = node.get("InstanceMarketOptions", {}).get("MarketType")
        assert market == (None if name == head else "spot"), name


def test_no_work_lands_on_the_head(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}


def test_zones_lie_in_the_region(cluster: dict[str, Any]) -> None:
    provider = cluster["provider"]
    for zone in provider["availability_zone"].split(","):
        assert re.fullmatch(re.escape(provider["region"]) + "[a-f]", zone)


def test_what_is_synced_leaves_out_git_environments_and_runs(cluster: dict[str, Any]) -> None:
    assert {".git", ".venv", "runs"} <= set(cluster["rsync_exclude"])


def test_nodes_get_the_versions_of_the_constraints_file(cluster: dict[str, Any]) -> None:
    """The driver's environment is made from the same file, so Ray agrees on both sides."""
    assert cluster["file_mounts"]["~/fewshot"] == "."
    install = [c for c in cluster["setup_commands"] if "pip install" in c]
    assert len(install) == 1
    assert "--constraint ~/fewshot/constraints.txt" in install[0]
    pinned = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    import ray

    assert pinned == [ray.__version__]
    assert re.search(r'"ray\[default,', (ROOT / "pyproject.toml").read_text())


def test_the_token_mode_is_said_wherever_ray_starts(cluster: dict[str, Any]) -> None:
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        for command in cluster[key]:
            for start in re.finditer(r"ray (start|stop)", command):
                assert "RAY_AUTH_MODE=token" in command[: start.start()], command
    assert "~/.ray/auth_token" in cluster["file_mounts"]


def test_the_dashboard_listens_on_loopback(cluster: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]


def test_idle_workers_are_given_back(cluster: dict[str, Any]) -> None:
    assert 1 <= cluster["idle_timeout_minutes"] <= 30
    assert cluster["available_node_types"]["gpu"]["min_workers"] == 0
