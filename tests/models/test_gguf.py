"""Local models from GGUF files: weights, tokenizer and chat template come from one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers.pre_tokenizers import ByteLevel

from cuecard.domain.errors import BadInput, MissingExtra
from cuecard.domain.question import Question
from cuecard.evals.requests import is_local, model_revision
from cuecard.models import spec
from cuecard.models.base import Limits
from cuecard.models.local import transformers_network
from cuecard.models.prompt import short

HIDDEN, HEADS, HEAD_DIM, MLP, LAYERS = 32, 2, 16, 64, 2
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def written(path: Path, architecture: str = "qwen2") -> Path:
    """Write a GGUF file of a language model with random weights and a byte-level vocabulary; returns its path."""
    tokens, chance = [*sorted(ByteLevel.alphabet()), "he", *SPECIAL], np.random.default_rng(0)
    file = gguf.GGUFWriter(path, architecture)
    file.add_block_count(LAYERS)
    file.add_context_length(512)
    file.add_embedding_length(HIDDEN)
    file.add_feed_forward_length(MLP)
    file.add_head_count(HEADS)
    file.add_head_count_kv(1)
    file.add_layer_norm_rms_eps(1e-6)
    file.add_rope_freq_base(10000.0)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("qwen2")
    file.add_token_list(tokens)
    file.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * len(SPECIAL))
    file.add_token_merges(["h e"])
    file.add_bos_token_id(tokens.index(SPECIAL[0]))
    file.add_eos_token_id(tokens.index(SPECIAL[2]))
    file.add_chat_template(TEMPLATE)

    def tensor(name: str, *shape: int) -> None:
        file.add_tensor(name, chance.normal(size=shape, scale=0.1).astype(np.float32))

    tensor("token_embd.weight", len(tokens), HIDDEN)
    tensor("output_norm.weight", HIDDEN)
    tensor("output.weight", len(tokens), HIDDEN)
    for layer in range(LAYERS):
        for name, rows in (("attn_q", HEADS * HEAD_DIM), ("attn_k", HEAD_DIM), ("attn_v", HEAD_DIM)):
            tensor(f"blk.{layer}.{name}.weight", rows, HIDDEN)
            tensor(f"blk.{layer}.{name}.bias", rows)
        tensor(f"blk.{layer}.attn_output.weight", HIDDEN, HEADS * HEAD_DIM)
        for name, rows, columns in (("ffn_gate", MLP, HIDDEN), ("ffn_up", MLP, HIDDEN), ("ffn_down", HIDDEN, MLP)):
            tensor(f"blk.{layer}.{name}.weight", rows, columns)
        for name in ("attn_norm", "ffn_norm"):
            tensor(f"blk.{layer}.{name}.weight", HIDDEN)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("gguf") / "tiny-q8.gguf")


async def test_a_gguf_file_answers_with_its_own_chat_template(path: Path) -> None:
    model = spec.load(str(path))
    assert model.name == "tiny-q8"
    assert model.abilities.style.in_prose
    prompt = short(Question("hello?"), model.abilities.style)
    ids, answered = await model.tokens(prompt, "yes")  # type: ignore[attr-defined]
    assert model.tokenizer.decode(ids).startswith("<|im_start|>user\nhello?")  # type: ignore[attr-defined]
    assert answered == 3
    heard = [event async for event in model.stream(prompt, Limits(answer_tokens=4))]
    assert heard
    await model.aclose()


def test_a_gguf_file_differs_from_another_by_its_content(path: Path, tmp_path: Path) -> None:
    other = tmp_path / path.name
    other.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    assert is_local(str(path))
    assert model_revision(str(path)) != model_revision(str(other))


def test_without_the_packages_that_read_it_the_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = transformers_network.find_spec
    find: Callable[[str], object] = lambda name: None if name == "gguf" else there(name)  # noqa: E731
    monkeypatch.setattr(transformers_network, "find_spec", find)
    with pytest.raises(MissingExtra, match=r"tiny-q8.gguf is a GGUF file, which needs gguf") as caught:
        spec.load(str(path))
    assert ".[local]" in caught.value.hint


def test_an_architecture_that_transformers_does_not_read_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"odd.gguf cannot be read: .*rwkv9.*not supported") as caught:
        spec.load(str(written(tmp_path / "odd.gguf", "rwkv9")))
    assert "llama.cpp" in caught.value.hint


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(BadInput, match=r"text.gguf cannot be read"):
        spec.load(str(tmp_path / "text.gguf"))
