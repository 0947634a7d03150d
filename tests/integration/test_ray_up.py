"""`ray up` and `ray down` of cluster.yaml against a mock cloud (moto), ssh and rsync noted only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = pytest.importorskip("moto.server")
    monkeypatch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


def ray(verb: str, home: Path, cloud: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "AWS_ENDPOINT_URL": cloud,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "HOME": str(home),
        "PATH": f"{ROOT / 'tests/stubs'}:{os.environ['PATH']}",
        "FAKE_LOG": str(home / "log"),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    script = str(Path(sys.executable).with_name("ray"))
    options = ["--no-config-cache"] if verb == "up" else []
    return subprocess.run(
        [script, verb, *options, "-y", "cluster.yaml"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_goes_up_and_down_on_a_mock_cloud(cloud: str, tmp_path: Path) -> None:
    import boto3

    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("0" * 32)
    up = ray("up", tmp_path, cloud)
    assert up.returncode == 0, up.stdout + up.stderr

    ec2 = boto3.client(
        "ec2", "us-west-2", endpoint_url=cloud, aws_access_key_id="x", aws_secret_access_key="y"
    )
    (reservation,) = ec2.describe_instances()["Reservations"]
    (head,) = reservation["Instances"]
    tags = {tag["Key"]: tag["Value"] for tag in head["Tags"]}
    assert head["InstanceType"] == "m6i.xlarge"
    assert tags["ray-cluster-name"] == "fewshot"
    assert tags["ray-user-node-type"] == "head"
    assert head["IamInstanceProfile"]["Arn"].endswith("instance-profile/ray-autoscaler-v1")

    transcript = (tmp_path / "log").read_text()
    steps = ("uptime", "auth_token", "constraints.txt", "ray stop", "ray start --head")
    places = [transcript.index(step) for step in steps]
    assert places == sorted(places), transcript

    down = ray("down", tmp_path, cloud)
    assert down.returncode == 0, down.stdout + down.stderr
    states = [
        instance["State"]["Name"]
        for found in ec2.describe_instances()["Reservations"]
        for instance in found["Instances"]
    ]
    assert set(states) <= {"terminated", "shutting-down"}
