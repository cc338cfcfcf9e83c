"""`--ray`: the same run on a local cluster, with workers killed; and refused options."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest
from test_study import CALLS, MODELS, QUESTIONS, bench

from cuecard.cli.evals.study import How
from cuecard.domain.errors import BadInput, MissingExtra
from cuecard.evals.runner import ray_workers
from cuecard.evals.study import ARMS
from processes import descendants

# in the process of the tests of Ray Serve, as a cluster of others is found by address "auto"
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("a cluster")]

TELLS = "a worker died: what it had in hand goes to others"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_killed_workers_lose_nothing_and_a_plain_run_resumes_a_cluster_run(tmp_path):
    async with bench(tmp_path, delay_s=0.02) as lab:
        process = await lab.start("--ray", "--ray-workers=2", "--at-once=3")
        killed: list[int] = []
        for requests in (20, 60):
            await lab.until(requests, process)
            assert process.returncode is None, await process.communicate()
            killed.append(descendants(process.pid, "ray::RayActor")[0])
            os.kill(killed[-1], signal.SIGKILL)
        await lab.until(100, process)
        process.terminate()
        _, text = await process.communicate()
        assert process.returncode == 143, text
        assert b"SIGTERM" not in text, "Ray's handler of signals would abort a slow end"
        lines = [line.strip() for line in text.decode().splitlines() if line.strip()]
        assert lines.count(TELLS) == 2
        before, asked_before = lab.stored(), len(lab.seen)
        assert lines[-1].startswith(f"stopped: {len(before)} calls and ")
        again = asked_before - len(set(lab.seen))
        assert again <= 2 * 3, "only what was in hand is asked again"
        code, out, said_now = await lab.end("--ray", "--ray-apart", "--json")
        assert code == 0, said_now
        assert not before & set(lab.seen[asked_before:]), "what was stored is not asked again"
    assert len(lab.stored()) == CALLS == len(set(lab.seen))
    assert lab.answers() == Counter(dict.fromkeys(ARMS, QUESTIONS))
    [task] = json.loads(out)["tasks"].values()
    assert (task["complete"], task["arms"]["mutual"]["accuracy"]) == (True, 1.0)
    calls = json.loads(out)["calls"]
    assert sum(row["calls"] for row in calls) == CALLS, "each is counted once"
    assert {row["model"] for row in calls} == set(MODELS)


async def test_a_missing_cluster_is_reported_in_one_line(tmp_path):
    async with bench(tmp_path) as lab:
        code, _, text = await lab.end("--ray", "--ray-address=auto")
        assert (code, text.count("\n"), "no Ray cluster at auto" in text) == (2, 1, True), text


async def test_a_model_that_does_not_load_on_a_worker_is_returned_as_an_error_record():
    result = await ray_workers.RayActor(
        {"small": {"model": "http://localhost:1/v1#small", "api_key": "${NOT_SET}"}}, True, True
    ).load()
    assert isinstance(result, dict)
    assert (result["class"], result["message"]) == ("BadInput", "the environment variable NOT_SET is not set")


def test_without_ray_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match="needs ray") as refused:
        ray_workers._connected(ray_workers.Sizes(), 1)
    assert refused.value.hint == "pip install '.[ray]' in a checkout"


def test_options_of_a_cluster_are_refused_without_one():
    cluster = How(ray=True, ray_workers=3, ray_address="auto", ray_apart=True, ray_gpus=0.5)
    assert How().on is None
    assert cluster.on == ray_workers.Sizes(3, "auto", True, 0.5)
    with pytest.raises(BadInput, match="--ray-workers is about a Ray cluster"):
        How(ray_workers=3).on  # noqa: B018
    with pytest.raises(BadInput, match="at least 1 worker"):
        How(ray=True, ray_workers=0).on  # noqa: B018


def test_the_command_line_starts_without_ray():
    code = "import cuecard.cli.evals.study, sys; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
