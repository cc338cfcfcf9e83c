"""Files under deploy/: each passes its validator, and every metric in the dashboards exists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import promql_parser
import pytest
import yaml
from gateways import COUNT, disagreeing
from prometheus_client.parser import text_string_to_metric_families

from cuecard.domain.question import AnswerKind, Question
from cuecard.gateway import config
from cuecard.gateway.config import AuditSettings
from cuecard.gateway.metrics import Audit, GatewayMetrics
from cuecard.gateway.pairs import Service
from cuecard.models.pool import Breaker, Pool, Replica
from cuecard.strategies.run import answer

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/cuecard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
ROUTES = list(yaml.safe_load_all((DEPLOY / "llm-d.yaml").read_text()))


def form(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """The JSON schema of an object with these fields and no others."""
    fields = {"properties": required | optional, "required": list(required)}
    return {"type": "object", "additionalProperties": False, **fields}


TEXT, PORT = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 1, "maximum": 65535}
METADATA = form({"name": TEXT})
PATH = form({"type": {"enum": ["PathPrefix", "Exact"]}, "value": {"type": "string", "pattern": "^/"}})
REWRITE = form({"path": form({"type": {"const": "ReplacePrefixMatch"}, "replacePrefixMatch": TEXT})})
RULE = form(
    {"backendRefs": {"type": "array", "items": form({"group": TEXT, "kind": TEXT, "name": TEXT})}},
    matches={"type": "array", "items": form({"path": PATH})},
    filters={"type": "array", "items": form({"type": {"const": "URLRewrite"}, "urlRewrite": REWRITE})},
    timeouts=form({"request": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}}),
)
PARENTS = {"type": "array", "items": form({"group": TEXT, "kind": TEXT, "name": TEXT})}
NUMBERED = form({"number": PORT})
PICKER = form({"name": TEXT, "port": NUMBERED}, failureMode={"enum": ["FailOpen", "FailClose"]})
POOL = {
    "selector": form({"matchLabels": {"type": "object", "additionalProperties": TEXT}}),
    "targetPorts": {"type": "array", "items": NUMBERED, "minItems": 1, "maxItems": 8},
    "endpointPickerRef": PICKER,
}
SPECS = {
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): form(
        {"parentRefs": PARENTS, "rules": {"type": "array", "items": RULE}}
    ),
    ("inference.networking.k8s.io/v1", "InferencePool"): form(POOL),
}
FORMS = {
    kind: form({"apiVersion": TEXT, "kind": TEXT, "metadata": METADATA, "spec": spec}) for kind, spec in SPECS.items()
}


def test_the_compose_file_is_one():
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, str(DEPLOY / "compose.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_all_files_that_the_compose_file_mounts_are_there():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    mounted = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())]
    ours = [name for name in mounted if name.startswith("./") and name != "./key"]  # the key is not committed
    assert ours
    assert all((DEPLOY / name).exists() for name in ours)


@pytest.mark.parametrize("release", ["1.31", "1.36"])
def test_the_manifests_are_kubernetes(release):
    manifests = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    kinds = {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy", "StatefulSet"}
    assert {manifest["kind"] for manifest in manifests} == kinds
    for manifest in manifests:
        kubernetes_validate.validate(manifest, release, strict=True)


def test_the_configuration_is_one(monkeypatch):
    monkeypatch.setenv("CUECARD_KEY_SHA256", "0" * 64)
    monkeypatch.setenv("CUECARD_STATE_URL", "redis://redis:6379/0")
    assert config.read(DEPLOY / "cuecard.toml").keys[0].name == "first"


@pytest.mark.parametrize("manifest", ROUTES, ids=lambda manifest: f"{manifest['kind']}-{manifest['metadata']['name']}")
def test_routes_and_pools_have_the_form_of_their_definitions(manifest):
    """Their schemas come in no package: these are the fields that we use, as their definitions describe them."""
    jsonschema.validate(manifest, FORMS[manifest["apiVersion"], manifest["kind"]])


def test_every_route_leads_to_a_pool_whose_pods_the_gateway_may_reach():
    pools = {each["metadata"]["name"]: each["spec"] for each in ROUTES if each["kind"] == "InferencePool"}
    route = next(each for each in ROUTES if each["kind"] == "HTTPRoute")
    assert {ref["name"] for rule in route["spec"]["rules"] for ref in rule["backendRefs"]} == set(pools)
    assert {spec["selector"]["matchLabels"]["app.kubernetes.io/name"] for spec in pools.values()} == {"small", "large"}


def test_the_autoscaler_the_policies_and_the_services_select_pods_that_exist():
    manifests = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in manifests if "template" in each["spec"]]
    chosen = [each["spec"].get("podSelector", each["spec"].get("selector")) for each in manifests]
    chosen = [each.get("matchLabels", each) for each in chosen if each]
    assert len(chosen) == len(manifests) - 1  # the autoscaler names its target
    assert all(each in pods for each in chosen)
    scaler = next(each for each in manifests if each["kind"] == "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] in [each["metadata"]["name"] for each in manifests]
    budget = next(each for each in manifests if each["kind"] == "PodDisruptionBudget")["spec"]
    assert scaler["minReplicas"] > budget["minAvailable"]


def test_pods_are_given_longer_than_requests_are():
    drain_s = config.GatewaySettings.model_validate({"host": "0.0.0.0", "drain_s": 60}).drain_s
    pod = yaml.safe_load((DEPLOY / "kubernetes.yaml").read_text().split("---")[0])["spec"]["template"]["spec"]
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["cuecard"]
    assert pod["terminationGracePeriodSeconds"] > drain_s
    assert int(service["stop_grace_period"].removesuffix("s")) > drain_s


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_of_the_dashboard_is_promql(query):
    promql_parser.parse(query.replace("$__rate_interval", "1m"))


async def test_every_metric_of_the_dashboard_is_given():
    models = disagreeing()
    pools = {role: Pool([Replica(model, Breaker(lambda: 0.0))]) for role, model in models.items()}
    seen = GatewayMetrics([Service(pools)])
    outcome = await answer(Question(COUNT, kind=AnswerKind.NUMBER), models)
    seen.answered("id", "cuecard", outcome, 0.1)
    seen.spent(outcome.calls)
    seen.failed(ValueError())
    given = {
        sample.name
        for family in text_string_to_metric_families(
            seen.exposition(Audit(Service(models), AuditSettings(share=0.0)).as_dict()).decode()
        )
        for sample in family.samples
    }
    drawn = {name for query in QUERIES for name in re.findall(r"cuecard_\w+", query)}
    assert drawn <= given
