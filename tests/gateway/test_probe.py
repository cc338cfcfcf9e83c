"""What servers can do is found out by asking them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from cuecard.domain.errors import BadInput
from cuecard.gateway import probe
from cuecard.gateway.config import Config
from cuecard.gateway.service import Service
from cuecard.models import spec
from cuecard.models.mock_server import HttpError, MockServer, Received, Reply, Says
from cuecard.models.prompt import CardFormat

pytestmark = pytest.mark.timeout(30)


async def found(script: Callable[[Received], Reply], **server: Any) -> probe.Findings:
    async with MockServer(script, models=["tiny"], **server) as url:

        def load(table: dict[str, Any], **changed: Any) -> Any:
            return spec.load({**changed, **table})

        return await probe.probe(partial(load, {"model": f"{url}#tiny", "family": "plain"}))


def able(request: Received) -> Reply:
    """Thinks when it is asked to, and goes on with what it is given."""
    given = str(request.body["messages"])
    return Says(probe.SECRET if probe.SECRET in given else "1", "One, two.", thinks="step by step" in given)


async def test_a_server_that_can_do_everything():
    seen = await found(able, prefix_cache=True)
    assert seen.reachable
    assert (seen.short_answers, seen.images, seen.logprobs, seen.prefill) == (True, True, True, True)
    assert seen.prefix_cache


async def test_a_server_that_ignores_what_it_is_given_cannot_go_on_with_it():
    seen = await found(lambda request: Says("1", "One."))
    assert seen.prefill is False
    assert seen.settings["prefill"] is False


async def test_a_server_that_refuses_images_and_prefill_says_so_in_the_notes():
    def blind(request: Received) -> Reply:
        if "image_url" in str(request.body["messages"]):
            return HttpError(400, {"error": {"message": "this model has no eyes"}})
        if request.body.get("continue_final_message"):
            return HttpError(400, {"error": {"message": "continue what?"}})
        return Says("1", logprob=None)

    seen = await found(blind)
    assert (seen.images, seen.prefill, seen.logprobs) == (False, False, False)
    assert any("no eyes" in note for note in seen.notes)


@pytest.mark.parametrize("aborts", [True, False])
async def test_whether_a_server_gives_up_when_its_client_has_gone_is_what_it_counts(aborts):
    def long(request: Received) -> Reply:
        return Says("1 2 3 4 5 6 7 8 9 " * 50, delay_s=0.05) if "every number" in str(request.body) else able(request)

    assert (await found(long, aborts=aborts)).aborts is aborts


async def test_servers_that_are_known_already_are_not_asked_again():
    async with MockServer(able, models=["tiny", "huge"]) as url:
        tables = {role: {"model": f"{url}#{name}"} for role, name in (("small", "tiny"), ("large", "huge"))}
        config = Config.model_validate({"version": 1, **tables})
        fresh = await probe.of_servers(config, {f"{url}#tiny": probe.Findings(reachable=True)})
    assert list(fresh) == [f"{url}#huge"]
    assert fresh[f"{url}#huge"].reachable


async def test_nobody_listening_is_told_in_one_line():
    seen = await probe.probe(lambda **_: spec.load("http://127.0.0.1:9/v1#tiny"))
    assert not seen.reachable
    assert "cannot reach" in seen.problem


def test_what_was_found_is_kept_and_gone_by(tmp_path):
    file = probe.beside(tmp_path / "cuecard.toml")
    assert probe.saved(file) == {}
    url = "http://one:8000/v1#tiny"
    seen = probe.Findings(reachable=True, prefill=True, images=False, prefix_cache=True, first_s=1.0, again_s=0.1)
    probe.save(file, {url: seen})
    config = Config.model_validate({"version": 1, "small": {"model": url}, "large": {"model": "http://two/v1#huge"}})
    service = Service.configured(config, probe.saved(file))
    able = service.models["small"].abilities
    assert (able.card_formats[0], able.prefix_sessions, able.images) == (CardFormat.THINKING, True, False)
    assert service.models["large"].abilities.card_formats[0] is not CardFormat.THINKING


def test_what_the_file_says_goes_before_what_was_found():
    url = "http://one:8000/v1#tiny"
    config = Config.model_validate(
        {"version": 1, "small": {"model": url, "prefill": False}, "large": {"model": "http://two/v1#huge"}}
    )
    service = Service.configured(config, {url: probe.Findings(reachable=True, prefill=True)})
    assert service.models["small"].abilities.card_formats[0] is not CardFormat.THINKING


def test_broken_findings_are_refused_with_what_to_do(tmp_path):
    (tmp_path / "x.probe.json").write_text('{"servers": {"a": {"reachble": true}}}')
    with pytest.raises(BadInput, match="is broken"):
        probe.saved(tmp_path / "x.probe.json")
