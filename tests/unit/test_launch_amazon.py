"""What `ray up` would make of cluster/aws.yaml: Ray's own start-up against a stand-in for Amazon.

moto holds the account; the stack of cluster/aws-account.yaml, Ray's bootstrap and its node provider run for real. The images are moto's
(it knows none of Amazon's image parameters), and it does not enforce the roles.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.exceptions import ClientError
from moto import mock_aws
from ray.autoscaler._private.aws import config as ray_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.util import prepare_config

from tests.unit.test_launch_files import CLUSTER, faults, load

ADDRESS = "203.0.113.7/32"
WORLD = {"0.0.0.0/0", "::/0"}
Config = dict[str, Any]


@contextmanager
def empty_account(home: Path, with_policies: bool = False) -> Iterator[None]:
    """An account of Amazon's with nothing in it, and a home for the key pair that Ray makes."""
    with pytest.MonkeyPatch.context() as patch, mock_aws(config={"iam": {"load_aws_managed_policies": with_policies}}):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-west-2")
        patch.setenv("HOME", str(home))
        patch.setattr(ray_aws.time, "sleep", lambda _: None)  # Ray's pauses for Amazon's slowness
        yield


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """aws.yaml as Ray starts it in an account with our stack."""
    with empty_account(tmp_path_factory.mktemp("home")):
        make_stack()
        yield dict(_bootstrap_config(load("aws.yaml"), no_config_cache=True))


def make_stack() -> None:
    image = boto3.client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    template = (
        (CLUSTER / "aws-account.yaml").read_text().replace("AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>", "String")
    )
    given = {"MyAddress": ADDRESS, "BucketName": "ears-of-mine", "CpuImage": image, "GpuImage": image}
    boto3.client("cloudformation").create_stack(
        StackName="earshot",
        TemplateBody=template,
        Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in given.items()],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )


def open_to(config: Config) -> set[str]:
    """The addresses outside from which the security groups of a bootstrapped config let anything in."""
    ids = {group for t in config["available_node_types"].values() for group in t["node_config"]["SecurityGroupIds"]}
    groups = boto3.client("ec2").describe_security_groups(GroupIds=sorted(ids))["SecurityGroups"]
    rules = [rule for group in groups for rule in group["IpPermissions"]]
    assert all(pair["GroupId"] in ids for rule in rules for pair in rule["UserIdGroupPairs"])
    from_outside = [rule for rule in rules if rule["IpRanges"] or rule["Ipv6Ranges"]]
    assert all((rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 22, 22) for rule in from_outside)
    ranges = [
        r.get("CidrIp") or r["CidrIpv6"] for rule in from_outside for r in [*rule["IpRanges"], *rule["Ipv6Ranges"]]
    ]
    return set(ranges)


def profile_role(machine: Config) -> tuple[list[str], list[Config]]:
    """The managed policies and the inline statements of the role that a machine runs with."""
    iam = boto3.client("iam")
    arn = machine["IamInstanceProfile"]["Arn"]
    (profile,) = [p for p in iam.list_instance_profiles()["InstanceProfiles"] if p["Arn"] == arn]
    (role,) = [r["RoleName"] for r in profile["Roles"]]
    managed = [p["PolicyName"] for p in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]]
    documents = [
        iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        for name in iam.list_role_policies(RoleName=role)["PolicyNames"]
    ]
    parsed = [json.loads(d.replace("'", '"')) if isinstance(d, str) else d for d in documents]
    return managed, [statement for document in parsed for statement in document["Statement"]]


def actions(statements: list[Config]) -> dict[str, list[Config]]:
    """Action -> the statements that allow it."""
    allowed: dict[str, list[Config]] = {}
    for statement in statements:
        named = statement["Action"]
        for action in [named] if isinstance(named, str) else named:
            allowed.setdefault(action, []).append(statement)
    return allowed


def test_what_ray_makes_of_its_own_defaults_is_what_we_look_for(tmp_path: Path) -> None:
    defaults = {"cluster_name": "x", "provider": {"type": "aws", "region": "us-west-2"}}
    with empty_account(tmp_path, with_policies=True):
        theirs = ray_aws.bootstrap_aws(prepare_config(defaults))
        assert "dashboard open" in faults(theirs)
        assert open_to(theirs) & WORLD
        managed, _ = profile_role(theirs["head_node"])
        assert set(managed) == {"AmazonEC2FullAccess", "AmazonS3FullAccess"}


def test_without_the_stack_ray_stops_before_it_makes_a_group(tmp_path: Path) -> None:
    with empty_account(tmp_path):
        with pytest.raises(ClientError, match="earshot"):
            ray_aws.bootstrap_aws(prepare_config(load("aws.yaml")))
        groups = boto3.client("ec2").describe_security_groups()["SecurityGroups"]
        assert {group["GroupName"] for group in groups} == {"default"}


def test_amazon_lets_in_one_address_and_the_nodes_themselves(merged: Config) -> None:
    assert faults(merged) == set()
    assert open_to(merged) == {ADDRESS}


def test_ray_makes_no_group_and_no_role_of_its_own(merged: Config) -> None:
    names = [g["GroupName"] for g in boto3.client("ec2").describe_security_groups()["SecurityGroups"]]
    assert set(names) == {"default", "earshot-nodes"}
    assert {r["RoleName"] for r in boto3.client("iam").list_roles()["Roles"]} == {"earshot-head", "earshot-worker"}
    assert merged["head_node"] == {}


def test_the_head_may_only_keep_this_clusters_machines(merged: Config) -> None:
    managed, statements = profile_role(merged["available_node_types"]["head"]["node_config"])
    assert managed == []
    allowed = actions(statements)
    assert set(allowed) == {
        "ec2:DescribeInstances",
        "ec2:RunInstances",
        "ec2:CreateTags",
        "ec2:TerminateInstances",
        "iam:PassRole",
        "s3:ListBucket",
        "s3:GetObject",
    }
    assert [s["Action"] for s in statements if s["Resource"] == "*"] == ["ec2:DescribeInstances"]
    ours = {"StringEquals": {"aws:ResourceTag/ray-cluster-name": "earshot"}}
    assert [s["Condition"] for s in allowed["ec2:TerminateInstances"]] == [ours]
    (passing,) = allowed["iam:PassRole"]
    assert passing["Resource"].endswith(":role/earshot-worker")
    on_machines = [s for s in allowed["ec2:RunInstances"] if s["Resource"][-10:] == "instance/*"]
    assert [s["Condition"] for s in on_machines] == [{"StringEquals": {"aws:RequestTag/ray-cluster-name": "earshot"}}]


@pytest.mark.parametrize("node_type", ["cpu", "gpu"])
def test_a_worker_may_only_read_the_bucket(merged: Config, node_type: str) -> None:
    managed, statements = profile_role(merged["available_node_types"][node_type]["node_config"])
    assert managed == []
    assert {action: [s["Resource"] for s in found] for action, found in actions(statements).items()} == {
        "s3:ListBucket": ["arn:aws:s3:::ears-of-mine"],
        "s3:GetObject": ["arn:aws:s3:::ears-of-mine/*"],
    }


@pytest.mark.parametrize("node_type", ["head", "cpu", "gpu"])
def test_amazon_takes_each_machine_as_ray_asks_for_it(merged: Config, node_type: str) -> None:
    machine = merged["available_node_types"][node_type]["node_config"]
    assert all(disk["Ebs"]["Encrypted"] for disk in machine["BlockDeviceMappings"])
    tags = {"ray-node-type": "worker", "ray-launch-config": "-", "ray-node-name": "-", "ray-user-node-type": node_type}
    (made,) = AWSNodeProvider(merged["provider"], merged["cluster_name"]).create_node(machine, tags, 1)
    ((instance,),) = [
        r["Instances"] for r in boto3.client("ec2").describe_instances(InstanceIds=[made])["Reservations"]
    ]
    assert [group["GroupName"] for group in instance["SecurityGroups"]] == ["earshot-nodes"]
    assert instance["IamInstanceProfile"]["Arn"].endswith("earshot-head" if node_type == "head" else "earshot-worker")
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert instance.get("InstanceLifecycle") == (None if node_type == "head" else "spot")
    assert {"Key": "ray-cluster-name", "Value": "earshot"} in instance["Tags"]


def test_the_stack_refuses_the_world_and_wants_an_address() -> None:
    class Template(yaml.SafeLoader):
        pass

    Template.add_multi_constructor("!", lambda loader, suffix, node: None)
    parameter = yaml.load((CLUSTER / "aws-account.yaml").read_text(), Template)["Parameters"]["MyAddress"]
    assert "Default" not in parameter
    pattern = parameter["AllowedPattern"]
    assert re.fullmatch(pattern, ADDRESS)
    assert not any(re.fullmatch(pattern, wide) for wide in ("0.0.0.0/0", "1.0.0.0/8", "203.0.113.7", ""))
