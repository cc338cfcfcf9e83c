"""Files under deploy/: each passes its validator, and every metric in the dashboards exists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import promql_parser
import pytest
import yaml
from gateways import COUNT, disagreeing
from prometheus_client.parser import text_string_to_metric_families

from cuecard.domain.question import AnswerKind, Question
from cuecard.gateway.audit import Audit
from cuecard.gateway.config import config
from cuecard.gateway.config.config import AuditSettings
from cuecard.gateway.service import Service
from cuecard.gateway.telemetry.metrics import GatewayMetrics
from cuecard.gateway.upstream.pool import Breaker, Pool, Replica
from cuecard.strategies.run import answer

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/cuecard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


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
    assert {manifest["kind"] for manifest in manifests} >= {"Deployment", "Service"}
    for manifest in manifests:
        kubernetes_validate.validate(manifest, release, strict=True)


def test_the_configuration_is_one(monkeypatch):
    monkeypatch.setenv("CUECARD_KEY_SHA256", "0" * 64)
    assert config.read(DEPLOY / "cuecard.toml").keys[0].name == "first"


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
