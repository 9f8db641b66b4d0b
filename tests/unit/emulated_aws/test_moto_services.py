# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""moto still differs from AWS where it is corrected, and differs no more when it is.

Where the first half of a test fails, moto has learnt it: remove the correction.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from moto import mock_aws
from support import moto_services

REGION = "us-east-1"
STAGE = f"arn:aws:apigateway:{REGION}::/restapis/abc/stages/live"
HTTP_API = f"arn:aws:apigateway:{REGION}::/apis/abc/stages/live"


@pytest.fixture(autouse=True)
def _an_account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield


def client(service: str) -> Any:
    return boto3.client(service, region_name=REGION)


def test_type_of_nat_gateways(monkeypatch: pytest.MonkeyPatch) -> None:
    ec2 = client("ec2")
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    tags = [{"ResourceType": "natgateway", "Tags": [{"Key": "of", "Value": "a"}]}]
    made = ec2.create_nat_gateway(SubnetId=subnet, ConnectivityType="private", TagSpecifications=tags)
    filters = [{"Name": "resource-id", "Values": [made["NatGateway"]["NatGatewayId"]]}]

    def kind() -> str:
        return str(ec2.describe_tags(Filters=filters)["Tags"][0]["ResourceType"])

    assert kind() == "nat-gateway"
    moto_services.type_of_nat_gateways(monkeypatch)
    assert kind() == "natgateway"


def test_tags_of_launch_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    ec2 = client("ec2")

    def tagged(name: str) -> list[str]:
        ec2.create_launch_template(
            LaunchTemplateName=name,
            LaunchTemplateData={
                "InstanceType": "m7i.large",
                "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}],
            },
            TagSpecifications=[{"ResourceType": "launch-template", "Tags": [{"Key": "of", "Value": "a"}]}],
        )
        (version,) = ec2.describe_launch_template_versions(LaunchTemplateName=name)["LaunchTemplateVersions"]
        return [one["ResourceType"] for one in version["LaunchTemplateData"].get("TagSpecifications", [])]

    assert "launch-template" in tagged("first")
    moto_services.tags_of_launch_templates(monkeypatch)
    assert tagged("second") == ["instance"]


def test_attributes_of_load_balancers(monkeypatch: pytest.MonkeyPatch) -> None:
    subnets = [one["SubnetId"] for one in client("ec2").describe_subnets()["Subnets"]][:2]
    elb = client("elbv2")

    def attributes(name: str) -> dict[str, str]:
        (made,) = elb.create_load_balancer(Name=name, Subnets=subnets)["LoadBalancers"]
        told = elb.describe_load_balancer_attributes(LoadBalancerArn=made["LoadBalancerArn"])["Attributes"]
        return {one["Key"]: one["Value"] for one in told}

    assert not set(moto_services.LOAD_BALANCER_DEFAULTS) & set(attributes("a"))
    moto_services.attributes_of_load_balancers(monkeypatch)
    assert moto_services.LOAD_BALANCER_DEFAULTS.items() <= attributes("b").items()


def certificate() -> tuple[bytes, bytes]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "example.test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM), private


def test_chains_of_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    acm = client("acm")
    own, key = certificate()

    def chain() -> str:
        arn = acm.import_certificate(Certificate=own, PrivateKey=key, CertificateChain=own)["CertificateArn"]
        return str(acm.get_certificate(CertificateArn=arn)["CertificateChain"])

    assert chain().strip() != own.decode().strip()
    moto_services.chains_of_certificates(monkeypatch)
    assert chain().strip() == own.decode().strip()


def test_ids_of_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamodb = client("dynamodb")
    dynamodb.create_table(
        TableName="lock",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    assert "TableId" not in dynamodb.describe_table(TableName="lock")["Table"]
    moto_services.ids_of_tables(monkeypatch)
    first = dynamodb.describe_table(TableName="lock")["Table"]["TableId"]
    assert dynamodb.describe_table(TableName="lock")["Table"]["TableId"] == first


def web_acl(waf: Any, name: str) -> dict[str, Any]:
    visibility = {"SampledRequestsEnabled": False, "CloudWatchMetricsEnabled": False, "MetricName": name}
    made = waf.create_web_acl(
        Name=name, Scope="REGIONAL", DefaultAction={"Allow": {}}, VisibilityConfig=visibility, Rules=[]
    )
    return dict(made["Summary"])


def test_resources_of_web_acls(monkeypatch: pytest.MonkeyPatch) -> None:
    waf = client("wafv2")
    arn = web_acl(waf, "a")["ARN"]
    waf.associate_web_acl(WebACLArn=arn, ResourceArn=STAGE)
    with pytest.raises((ClientError, NotImplementedError)):
        waf.list_resources_for_web_acl(WebACLArn=arn)
    moto_services.resources_of_web_acls(monkeypatch)
    assert waf.list_resources_for_web_acl(WebACLArn=arn)["ResourceArns"] == []
    of_apis = waf.list_resources_for_web_acl(WebACLArn=arn, ResourceType="API_GATEWAY")
    assert of_apis["ResourceArns"] == [STAGE]


def test_private_integrations(monkeypatch: pytest.MonkeyPatch) -> None:
    api = client("apigateway")
    rest = api.create_rest_api(name="a")["id"]
    root = api.get_resources(restApiId=rest)["items"][0]["id"]
    api.put_method(restApiId=rest, resourceId=root, httpMethod="POST", authorizationType="NONE")
    where = {"restApiId": rest, "resourceId": root, "httpMethod": "POST"}
    wish = {"connectionId": "link-1", "integrationTarget": "arn:aws:elasticloadbalancing:x"}

    def kept() -> dict[str, Any]:
        api.put_integration(
            **where,
            type="HTTP_PROXY",
            integrationHttpMethod="POST",
            uri="https://a.test/",
            connectionType="VPC_LINK",
            **wish,
        )
        told = api.get_integration(**where)
        return {name: told.get(name) for name in (*moto_services.INTEGRATION_EXTRAS, "passthroughBehavior")}

    assert not any(kept().values())
    moto_services.private_integrations(monkeypatch)
    assert kept() == {**wish, "responseTransferMode": "BUFFERED", "passthroughBehavior": "WHEN_NO_MATCH"}


def test_access_controls_of_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    cloudfront = client("cloudfront")

    def control(reference: str) -> str:
        origin = {
            "Id": "site",
            "DomainName": "site.s3.us-east-1.amazonaws.com",
            "OriginAccessControlId": "E1",
            "S3OriginConfig": {"OriginAccessIdentity": ""},
        }
        made = cloudfront.create_distribution(
            DistributionConfig={
                "CallerReference": reference,
                "Comment": "",
                "Enabled": True,
                "Origins": {"Quantity": 1, "Items": [origin]},
                "DefaultCacheBehavior": {"TargetOriginId": "site", "ViewerProtocolPolicy": "redirect-to-https"},
            }
        )
        told = cloudfront.get_distribution_config(Id=made["Distribution"]["Id"])["DistributionConfig"]
        return str(told["Origins"]["Items"][0].get("OriginAccessControlId", ""))

    assert control("a") == ""
    moto_services.access_controls_of_origins(monkeypatch)
    assert control("b") == "E1"


def test_refusals_of_web_acls(monkeypatch: pytest.MonkeyPatch) -> None:
    waf = client("wafv2")

    def delete(acl: dict[str, Any]) -> None:
        waf.delete_web_acl(Name=acl["Name"], Scope="REGIONAL", Id=acl["Id"], LockToken=acl["LockToken"])

    before = web_acl(waf, "before")
    waf.associate_web_acl(WebACLArn=before["ARN"], ResourceArn=HTTP_API)
    delete(before)
    moto_services.refusals_of_web_acls(monkeypatch)
    first, second = web_acl(waf, "first"), web_acl(waf, "second")
    with pytest.raises(ClientError, match="WAFInvalidParameterException"):
        waf.associate_web_acl(WebACLArn=first["ARN"], ResourceArn=HTTP_API)
    for acl in (first, second):
        waf.associate_web_acl(WebACLArn=acl["ARN"], ResourceArn=STAGE)
    assert waf.get_web_acl_for_resource(ResourceArn=STAGE)["WebACL"]["Name"] == "second"
    with pytest.raises(ClientError, match="WAFAssociatedItemException"):
        delete(second)
    delete(first)
    waf.disassociate_web_acl(ResourceArn=STAGE)
    delete(second)


def test_every_correction_is_tested() -> None:
    assert {f"test_{one.__name__}" for one in moto_services.CORRECTIONS} <= set(globals())
