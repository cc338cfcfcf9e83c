"""Access by the Host header and the origin of the requesting page."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from gateways import COUNT, agreeing, gateway

from cuecard.gateway.admission.connections import same_origin
from cuecard.gateway.config import Config
from cuecard.gateway.tables import Key, digest

ASKED = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}]}
SPENDING = ("v1/chat/completions", "v1/completions", "v1/responses", "v1/decision")
APP = "https://app.example.org"


def plain_text(**headers: str) -> dict[str, Any]:
    """A request that a page of any site can send without a CORS preflight."""
    return {"content": json.dumps(ASKED | {"input": COUNT}), "headers": {"content-type": "text/plain", **headers}}


def client_of(client: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=str(client.base_url).removesuffix("v1/"))


@pytest.mark.parametrize("path", SPENDING)
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://elsewhere.example"},
        {"origin": "http://localhost:1"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1.elsewhere.example"},
        {"origin": "https://elsewhere.example", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_a_page_of_another_site_spends_nothing(path, headers):
    models = agreeing()
    async with gateway(models) as client, client_of(client) as plain:
        refused = await plain.post(path, **plain_text(**headers))
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "Forbidden"
    assert not any(each.prompts for each in models.values())


async def test_a_key_does_not_help_a_page_of_another_site():
    headers = {"origin": "https://elsewhere.example", "authorization": "Bearer x"}
    async with gateway(keys=[Key(name="app", sha256=digest("x"))]) as client, client_of(client) as plain:
        assert (await plain.post(SPENDING[0], json=ASKED, headers=headers)).status_code == 403


async def test_the_gateways_own_page_and_programs_are_let_in():
    async with gateway() as client, client_of(client) as plain:
        own = str(plain.base_url).rstrip("/")
        same = {"origin": own, "sec-fetch-site": "same-origin"}
        for headers in ({}, {"origin": own}, same, {"sec-fetch-site": "none"}):
            assert (await plain.post(SPENDING[0], json=ASKED, headers=headers)).status_code == 200
        followed = await plain.get("dashboard", headers={"sec-fetch-site": "cross-site"})  # a link
    assert followed.status_code == 200


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://gw:8400", "gw:8400", True),
        ("http://GW", "gw", True),
        ("https://gw.example", "gw.example", True),
        ("https://gw.example:443", "gw.example", True),
        ("http://[::1]:8400", "[::1]:8400", True),
        ("http://gw:8401", "gw:8400", False),
        ("http://gw", "gw:8400", False),
        ("http://elsewhere/gw:8400", "gw:8400", False),
        ("null", "", False),
        ("", "", False),
        ("http://[", "gw", False),
    ],
)
def test_a_page_is_of_the_same_origin_if_it_comes_from_the_host_that_it_calls(origin, host, same):
    assert same_origin(origin, host) is same


# --- host names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["rebound.example", "rebound.example:8400", "localhost.rebound.example", "127.0.0.1.rebound.example", "192.168.0.9",
     "localhost@rebound.example", "[::2]", ""],
)  # fmt: skip
@pytest.mark.parametrize("path", ["stats", "metrics", "dashboard", "v1/models", *SPENDING])
async def test_under_a_foreign_name_nothing_is_answered(host, path):
    async with gateway() as client, client_of(client) as plain:
        method = "POST" if path in SPENDING else "GET"
        answer = await plain.request(method, path, **plain_text(host=host))
    assert answer.status_code == 403
    assert "models" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "localhost.", "127.0.0.1:1", "127.9.9.9", "[::1]:8400"])
async def test_this_machines_own_names_are_known(host):
    async with gateway() as client, client_of(client) as plain:
        assert (await plain.get("health", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    ("hosts", "host", "status"),
    [
        (["gw.example"], "gw.example:8400", 200),
        (["gw.example"], "sub.gw.example", 403),
        (["10.0.0.7"], "10.0.0.7", 200),
        (["10.0.0.7"], "10.0.0.8", 403),
        (["0.0.0.0"], "10.0.0.8", 200),  # an IP address, so DNS rebinding is impossible
        (["::"], "[fd00::1]:8400", 200),
        (["0.0.0.0"], "rebound.example", 403),
        (["*"], "rebound.example", 200),
    ],
)
async def test_other_names_are_those_of_the_configuration(hosts, host, status):
    async with gateway(hosts=hosts) as client, client_of(client) as plain:
        assert (await plain.get("health", headers={"host": host})).status_code == status


async def test_where_there_are_keys_the_name_does_not_matter_unless_names_are_given():
    keys = [Key(name="app", sha256=digest("x"))]
    for hosts, status in ((None, 200), (["gw.example"], 403)):
        async with gateway(keys=keys, hosts=hosts) as client, client_of(client) as plain:
            assert (await plain.get("health", headers={"host": "any.example"})).status_code == status


def config(**server: Any) -> Config:
    keys = server.pop("keys", [])
    roles = {role: {"model": f"demo-{role}"} for role in ("small", "large")}
    return Config.model_validate({"version": 1, "server": server, "keys": keys, **roles})


def test_the_configuration_names_what_the_gateway_goes_by():
    keys = [{"name": "app", "sha256": digest("x")}]
    assert config().hosts("127.0.0.1") == ["127.0.0.1"]
    assert config(hosts=["gw.example"]).hosts("10.0.0.7") == ["10.0.0.7", "gw.example"]
    assert config(keys=keys).hosts("0.0.0.0") is None
    assert config(keys=keys, hosts=[]).hosts("10.0.0.7") == ["10.0.0.7"]


# --- allowed origins --------------------------------------------------------------------------------------------------


async def test_a_site_of_the_configuration_may_send_requests_and_read_responses():
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    async with gateway(origins=[APP]) as client, client_of(client) as plain:
        before = await plain.options(SPENDING[0], headers={"origin": APP, **asks})
        answer = await plain.post(SPENDING[0], json=ASKED, headers={"origin": APP, "sec-fetch-site": "cross-site"})
        failed = await plain.post(SPENDING[0], json={}, headers={"origin": APP})
        other = await plain.options(SPENDING[0], headers={"origin": "https://elsewhere.example", **asks})
        foreign = await plain.post(SPENDING[0], **plain_text(origin="https://elsewhere.example"))
    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == APP
    assert "POST" in before.headers["access-control-allow-methods"]
    assert "authorization" in before.headers["access-control-allow-headers"]
    assert answer.headers["access-control-allow-origin"] == failed.headers["access-control-allow-origin"] == APP
    assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
    assert "access-control-allow-origin" not in other.headers
    assert (foreign.status_code, "access-control-allow-origin" in foreign.headers) == (403, False)


async def test_with_a_star_every_site_may():
    async with gateway(keys=[Key(name="app", sha256=digest("x"))], origins=["*"]) as client, client_of(client) as plain:
        headers = {"origin": "https://any.example", "authorization": "Bearer x"}
        answer = await plain.post(SPENDING[0], json=ASKED, headers=headers)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


@pytest.mark.parametrize("origin", ["app.example.org", "https://app.example.org/", "https://a@b.example", ""])
def test_what_is_no_origin_is_refused_at_the_start(origin):
    with pytest.raises(ValueError, match="is no origin"):
        config(origins=[origin])


def test_every_site_may_send_requests_only_where_the_file_allows_it():
    with pytest.raises(ValueError, match="pages of all sites"):
        config(origins=["*"])
    config(origins=["*"], open=True)


@pytest.mark.parametrize("path", ["dashboard", "dashboard/page.html"])
async def test_no_page_can_be_put_into_a_frame(path):
    async with gateway() as client, client_of(client) as plain:
        page = await plain.get(path)
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-frame-options"] == "DENY"
