# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What moto does otherwise than AWS in other services than EC2's machines, where modules for AWS stumble over it.

Like moto_ec2: each correction takes what undoes it, and a test fails for each one that moto needs no more.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest
from moto.acm.models import CertBundle
from moto.apigateway.models import Integration
from moto.apigateway.responses import APIGatewayResponse
from moto.cloudfront.models import Origin
from moto.core.exceptions import JsonRESTError
from moto.dynamodb.models.table import Table
from moto.ec2.models.launch_templates import LaunchTemplateBackend
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE
from moto.elbv2.models import FakeLoadBalancer
from moto.wafv2.models import WAFV2Backend
from moto.wafv2.responses import WAFV2Response
from support.moto_ec2 import Correction

# What a load balancer for HTTP says of itself where nobody has set anything.
LOAD_BALANCER_DEFAULTS = {
    "access_logs.s3.enabled": "false",
    "idle_timeout.timeout_seconds": "60",
    "routing.http.desync_mitigation_mode": "defensive",
    "routing.http.drop_invalid_header_fields.enabled": "false",
    "routing.http.x_amzn_tls_version_and_cipher_suite.enabled": "false",
    "routing.http.xff_client_port.enabled": "false",
    "routing.http2.enabled": "true",
    "waf.fail_open.enabled": "false",
}
INTEGRATION_EXTRAS = ("connectionId", "integrationTarget", "responseTransferMode")
_STAGE_OF_A_REST_API = re.compile(r":apigateway:[^:]*::/restapis/[^/]+/stages/[^/]+$")


def type_of_nat_gateways(patch: pytest.MonkeyPatch) -> None:
    """DescribeTags calls it natgateway; moto nat-gateway."""
    patch.setitem(EC2_PREFIX_TO_RESOURCE, "nat", "natgateway")


def tags_of_launch_templates(patch: pytest.MonkeyPatch) -> None:
    """The tags of a launch template itself are no part of what it launches."""
    create = LaunchTemplateBackend.create_launch_template

    def corrected(self: Any, name: str, description: str, template_data: dict[str, Any], tag_spec: Any) -> Any:
        told = template_data.get("TagSpecifications") or []
        others = [one for one in told if one.get("ResourceType") != "launch-template"]
        data = {key: value for key, value in template_data.items() if key != "TagSpecifications"}
        return create(self, name, description, {**data, "TagSpecifications": others} if others else data, tag_spec)

    patch.setattr(LaunchTemplateBackend, "create_launch_template", corrected)


def attributes_of_load_balancers(patch: pytest.MonkeyPatch) -> None:
    """All attributes are told, with their defaults."""
    begin = FakeLoadBalancer.__init__

    def corrected(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        if self.type == "application":
            self.attrs = {**LOAD_BALANCER_DEFAULTS, **self.attrs}

    patch.setattr(FakeLoadBalancer, "__init__", corrected)


def chains_of_certificates(patch: pytest.MonkeyPatch) -> None:
    """The chain of an imported certificate is the one that was imported, without AWS's root behind it."""
    begin = CertBundle.__init__

    def corrected(self: Any, account_id: str, certificate: bytes, key: bytes, chain: Any = None, **more: Any) -> None:
        begin(self, account_id, certificate, key, chain, **more)
        self.chain = chain or certificate

    patch.setattr(CertBundle, "__init__", corrected)


def ids_of_tables(patch: pytest.MonkeyPatch) -> None:
    """A table of DynamoDB has an id."""
    describe = Table.describe

    def corrected(self: Any, *arguments: Any, **options: Any) -> Any:
        told = describe(self, *arguments, **options)
        for table in told.values():
            table.setdefault("TableId", str(uuid.uuid5(uuid.NAMESPACE_URL, self.table_arn)))
        return told

    patch.setattr(Table, "describe", corrected)


def resources_of_web_acls(patch: pytest.MonkeyPatch) -> None:
    """ListResourcesForWebACL is missing; without a type it means load balancers."""

    def corrected(self: Any) -> Any:
        kind = self._get_param("ResourceType") or "APPLICATION_LOAD_BALANCER"
        service = {"APPLICATION_LOAD_BALANCER": ":elasticloadbalancing:", "API_GATEWAY": ":apigateway:"}.get(kind)
        acl = self.wafv2_backend.wacls.get(self._get_param("WebACLArn"))
        found = acl.associated_resources if acl and service else []
        return 200, {}, json.dumps({"ResourceArns": [arn for arn in found if str(service) in arn]})

    patch.setattr(WAFV2Response, "list_resources_for_web_acl", corrected, raising=False)


def private_integrations(patch: pytest.MonkeyPatch) -> None:
    """PutIntegration keeps through which link, to which load balancer, and how the answer comes."""
    put, tell = APIGatewayResponse.put_integration, Integration.to_json

    def told(self: Any) -> dict[str, Any]:
        return {**tell(self), **{name: value for name, value in vars(self).get("extras", {}).items() if value}}

    def corrected(self: Any) -> Any:
        status, headers, _body = put(self)
        parts = self.path.split("/")
        integration = self.backend.get_integration(parts[2], parts[4], parts[6])
        integration.extras = {name: self._get_param(name) for name in INTEGRATION_EXTRAS}
        integration.extras["responseTransferMode"] = integration.extras["responseTransferMode"] or "BUFFERED"
        integration.passthrough_behaviour = integration.passthrough_behaviour or "WHEN_NO_MATCH"
        return status, headers, json.dumps(integration.to_json())

    patch.setattr(Integration, "to_json", told)
    patch.setattr(APIGatewayResponse, "put_integration", corrected)


def access_controls_of_origins(patch: pytest.MonkeyPatch) -> None:
    """CloudFront keeps which access control an origin has."""
    begin = Origin.__init__

    def corrected(self: Any, origin: dict[str, Any]) -> None:
        begin(self, origin)
        self.origin_access_control_id = origin.get("OriginAccessControlId") or ""

    patch.setattr(Origin, "__init__", corrected)


def refusals_of_web_acls(patch: pytest.MonkeyPatch) -> None:
    """Refused are an HTTP API, and the end of an ACL in use; a second ACL of one resource replaces the first."""
    associate, delete = WAFV2Backend.associate_web_acl, WAFV2Backend.delete_web_acl

    def corrected(self: Any, web_acl_arn: str, resource_arn: str) -> None:
        if ":apigateway:" in resource_arn and not _STAGE_OF_A_REST_API.search(resource_arn):
            raise JsonRESTError("WAFInvalidParameterException", "The ARN isn't valid.")
        self.disassociate_web_acl(resource_arn)
        associate(self, web_acl_arn, resource_arn)

    def not_in_use(self: Any, name: str, scope: str, _id: str, lock_token: str) -> None:
        if any(acl.id == _id and acl.associated_resources for acl in self.wacls.values()):
            raise JsonRESTError("WAFAssociatedItemException", "The ACL is in use.")
        delete(self, name, scope, _id, lock_token)

    patch.setattr(WAFV2Backend, "associate_web_acl", corrected)
    patch.setattr(WAFV2Backend, "delete_web_acl", not_in_use)


CORRECTIONS: tuple[Correction, ...] = (
    type_of_nat_gateways,
    tags_of_launch_templates,
    attributes_of_load_balancers,
    chains_of_certificates,
    ids_of_tables,
    resources_of_web_acls,
    private_integrations,
    access_controls_of_origins,
    refusals_of_web_acls,
)


def correct(patch: pytest.MonkeyPatch) -> None:
    for correction in CORRECTIONS:
        correction(patch)
