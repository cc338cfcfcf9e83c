"""cuecard.toml: every setting is read, and a mistake gives a one-line error."""

from __future__ import annotations

from pathlib import Path

import pytest

from cuecard.domain.errors import BadInput
from cuecard.gateway import config as config_file
from cuecard.gateway.pairs import Pairs
from cuecard.strategies.policy import Policy, Schedule

PAIR = """\
version = 1
[pair]
strategy = "transfer"
schedule = "eager"
budget = 77
[[small]]
model = "http://one:8000/v1#tiny"
weight = 2
[[small]]
model = "http://two:8000/v1#tiny"
most_at_once = 4
[large]
model = "https://three/v1#huge"
api_key = "${KEY_OF_THREE}"
prefill = true
prices = { prompt = 1.5, completion = 6 }
"""


def written(text: str, folder: Path) -> Path:
    path = folder / "cuecard.toml"
    path.write_text(text)
    return path


def test_one_server_or_several_a_role(tmp_path):
    found = config_file.read(written(PAIR, tmp_path)).pairs["cuecard"]
    assert [len(upstreams) for upstreams in found.roles.values()] == [2, 1]
    assert found.large[0].prices.completion == 6
    policy = found.policy_of(Policy())
    assert (policy.schedule, policy.limits.reasoning_tokens, policy.deadline_s) == (Schedule.EAGER, 77, 300)
    assert list(found.prices) == ["large"]


def test_a_service_follows_its_file_and_holds_no_key(tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_OF_THREE", "s3cret")
    service = Pairs.configured(config_file.read(written(PAIR, tmp_path))).first
    assert service.settings.strategy == "transfer"
    assert set(service.concrete) == {"tiny", "huge"}
    assert "s3cret" not in repr(vars(service))


@pytest.mark.parametrize("asks", ["card_keep = 0.3", 'card_select = "reader"'])
def test_a_cut_that_servers_cannot_compute_is_refused_at_the_start(asks, tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_OF_THREE", "s3cret")
    with pytest.raises(BadInput, match="cannot tell what of a card matters") as refused:
        Pairs.configured(config_file.read(written(PAIR.replace("budget = 77", asks), tmp_path)))
    assert "first, last, content" in refused.value.hint
    text_alone = PAIR.replace("budget = 77", 'card_keep = 0.3\ncard_select = "last"')
    assert (
        str(Pairs.configured(config_file.read(written(text_alone, tmp_path))).first.policy.cut)
        == "30% of the card by last"
    )


def test_a_calibrated_rule_without_a_table_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_OF_THREE", "s3cret")
    with pytest.raises(BadInput, match="needs an acceptance table for tiny and huge, and there is none"):
        Pairs.configured(config_file.read(written(PAIR.replace("budget = 77", 'accept = "calibrated(0.9)"'), tmp_path)))


def test_a_secret_that_is_not_set_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("KEY_OF_THREE", raising=False)
    with pytest.raises(BadInput, match="KEY_OF_THREE is not set"):
        Pairs.configured(config_file.read(written(PAIR, tmp_path)))


def test_the_environment_may_have_the_numbers_of_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("SECONDS", "9")
    text = PAIR.replace("weight = 2", 'weight = 2\ntimeout_s = "${SECONDS}"')
    assert 9.0 in [upstream.timeout_s for upstream in config_file.read(written(text, tmp_path)).pairs["cuecard"].small]
    monkeypatch.setenv("SECONDS", "soon")
    with pytest.raises(BadInput, match="timeout_s: input should be a valid number, not 'soon'"):
        config_file.read(written(text, tmp_path))


def test_keys_of_other_programs_keep_the_text_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SECONDS", "9")
    text = PAIR.replace(
        "weight = 2", 'weight = 2\nextra_body = {timeout_s = "${SECONDS}", deep = [{max_len = "${SECONDS}"}]}'
    )
    small = config_file.read(written(text, tmp_path)).pairs["cuecard"].small
    assert {"timeout_s": "9", "deep": [{"max_len": "9"}]} in [upstream.extra_body for upstream in small]


@pytest.mark.parametrize(
    ("change", "problem", "hint"),
    [
        (("version = 1", ""), "version is missing", "version = 1"),
        (("version = 1", "version = 2"), "version", "report"),
        (("[pair]", "[piar]"), "unknown key piar", "did you mean pair"),
        (("strategy", "stategy"), "unknown key pair.stategy", "did you mean strategy"),
        (("weight", "wieght"), "unknown key small.wieght", "did you mean weight"),
        (('"transfer"', '"transfr"'), "did you mean transfer", ""),
        (('"eager"', '"egaer"'), "pair.schedule", ""),
        (("budget = 77", "budget = 0"), "pair.budget", ""),
        (("budget = 77", 'strict = "yes"'), "pair.strict", "true or false, without quotes"),
        (("weight = 2", "weight = -2"), "small.weight", ""),
        (("http://two:8000/v1#tiny", "http://two:8000/v1"), "does not say which model", ""),
        (("http://two:8000/v1#tiny", "http://two:8000/v1#other"), "different models: other, tiny", ""),
        (("weight = 2", "prices = { prompt = 1 }"), "different prices", ""),
        (("budget = 77", 'rescue = "shrt"'), "pair.rescue", ""),
        (("[large]", "[larg]"), "unknown key larg", "did you mean large"),
        ((PAIR[PAIR.index("[large]") :], ""), "large is missing", "write [large]"),
        (("[pair]", "[pair"), "not valid TOML", ""),
        (("[pair]", '[server]\nhost = "0.0.0.0"\n[pair]'), "open to others: add [[keys]] (`cuecard key`)", ""),
        (("budget = 77", 'budget = "lots"'), "budget: input should be a valid integer, not 'lots'", ""),
        (
            ("weight = 2", 'timeout_s = "9"'),
            "timeout_s: input should be a valid number",
            "without quotes",
        ),
        (
            ("weight = 2", 'gpu_memory = "0.3"'),
            "gpu_memory: input should be a valid number",
            "without quotes",
        ),
        (
            ("weight = 2", 'max_len = "512"'),
            "max_len: input should be a valid integer",
            "without quotes",
        ),
        (("[pair]", '[[keys]]\nname = "a"\nkey = "s"\n[pair]'), "unknown key keys.key", "there are: name, sha256"),
        (("[pair]", '[[keys]]\nname = "a"\nsha256 = "s"\n[pair]'), "keys.sha256", "`cuecard key` makes a key"),
    ],
)
def test_an_error_is_one_line(change, problem, hint, tmp_path):
    with pytest.raises(BadInput) as refused:
        config_file.read(written(PAIR.replace(*change), tmp_path))
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)
    assert hint in refused.value.hint or hint == "report"


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadInput, match="nowhere"):
        config_file.read(tmp_path / "nowhere.toml")


def test_an_unknown_family_is_refused_before_any_call(tmp_path):
    result = "version = 1\n[small]\nmodel = 'http://a/v1#x'\nfamily = 'qwen3'\n[large]\nmodel = 'http://b/v1#y'\n"
    with pytest.raises(BadInput, match="no model family 'qwen3'"):
        config_file.read(written(result, tmp_path))


def test_a_shared_state_keeps_budgets_instead_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_OF_THREE", "s3cret")
    monkeypatch.setenv("REDIS", "redis://:s3cret@state:6379/0")
    keyed = f'{PAIR}[[keys]]\nname = "a"\nsha256 = "{"0" * 64}"\ntokens_per_day = 9\n'
    with pytest.raises(BadInput, match=r"url under \[state\]"):
        config_file.read(written(keyed, tmp_path))
    found = config_file.read(written(f'{keyed}[state]\nurl = "${{REDIS}}"\n', tmp_path))
    assert (found.state.url, found.state.on_failure) == ("redis://:s3cret@state:6379/0", "refuse")
    assert found.ledger_path is None


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('url = "http://:s3cret@state:6379"', "state.url: it begins with none of redis://, rediss://, unix://"),
        ('on_failure = "wait"', "state.on_failure: input should be 'refuse' or 'allow'"),
        ("timeout_s = 0", "state.timeout_s: input should be greater than 0"),
        ("lease = 1", "unknown key state.lease (did you mean lease_s?)"),
    ],
)
def test_a_wrong_setting_of_the_state_gives_one_line_without_the_password(line, error, tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_OF_THREE", "s3cret")
    with pytest.raises(BadInput) as refused:
        config_file.read(written(f"{PAIR}[state]\n{line}\n", tmp_path))
    assert error in str(refused.value)
    assert "s3cret" not in str(refused.value)
