"""Tiny checkpoints with the architectures of real families: random weights, or a fixed successor for each token."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from training import checkpoint
from training import tokenizer as tk

THOUGHT = ("Let", " us", " look", " at", " the", " cell", ".")
ANSWER = ("7", " red", " digits")
SAID = ("\n", *THOUGHT, "</think>", "\n\n", *ANSWER, "<|im_end|>")
"""Token chain: a line break (start of reasoning) is followed by all of it, a closed reasoning by the answer."""

MOST = 512
"""Context length of the checkpoints, tokens."""
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": MOST,
    "tie_word_embeddings": False,
}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@cache
def demo_tokenizer() -> PreTrainedTokenizerFast:
    return tk.build()


def words(template: str, *special: str, **named: Any) -> PreTrainedTokenizerFast:
    """A tokenizer with the demo vocabulary, and another family's special tokens and chat template."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(demo_tokenizer().backend_tokenizer), chat_template=template, **named
    )
    made.add_special_tokens({"additional_special_tokens": list(special)})
    if made.bos_token is not None:  # prepended to every text, as in Llama and Gemma
        begin = processors.TemplateProcessing(
            single=f"{made.bos_token} $A", special_tokens=[(made.bos_token, made.bos_token_id)]
        )
        made.backend_tokenizer.post_processor = begin
    return made


# --- weights ----------------------------------------------------------------------------------------------------------


def lively(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, likely: Sequence[str]) -> PreTrainedModel:
    """Set random weights: the output depends on the prompt, holds words and `likely` tokens only, the latter often."""
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name and not name.endswith("bias"):
                spread = 1 if "embed_tokens" in name else weight[0].numel() ** -0.5
                # attention gets more weight relative to the last token, so that context and images matter
                weight.normal_(0, spread * (2 if name.endswith("o_proj.weight") else 1), generator=chance)
        silent = [
            token not in likely and _is_no_word(token) for token, _ in sorted(tokenizer.vocab.items(), key=_second)
        ]
        model.lm_head.weight[torch.tensor(silent)] = 0
        model.lm_head.weight[tokenizer.convert_tokens_to_ids(list(likely))] *= 4
    return model


def _second(item: tuple[str, int]) -> int:
    return item[1]


def _is_no_word(token: str) -> bool:
    """Whether a token marks a turn, image or reasoning, or is a byte of a SentencePiece vocabulary."""
    return len(token) > 1 and token[0] == "<" and token[-1] == ">"


def following(model: PreTrainedModel, *chains: Sequence[int]) -> PreTrainedModel:
    """Set weights so that the last token alone gives the next one, by the chains; layers add nothing to embeddings."""
    chance = torch.Generator().manual_seed(0)
    table = torch.randn(model.lm_head.weight.shape, generator=chance)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                weight.zero_()
        model.get_input_embeddings().weight.copy_(table)
        for chain in chains:
            for token, successor in pairwise(chain):
                model.lm_head.weight[successor] += table[token]
    return model


# --- checkpoints ------------------------------------------------------------------------------------------------------


def qwen3_vl(folder: Path, change: Callable[[PreTrainedModel], Any] | None = None) -> Path:
    """The embedded pair's architecture in a smaller size, saved in the same format: 128x128 pixels in 16 tokens."""
    tokenizer = demo_tokenizer()
    settings = checkpoint.architecture("demo-small", tokenizer).to_dict()
    shape = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2}
    settings["text_config"] |= {**shape, "num_key_value_heads": 1, "max_position_embeddings": MOST}
    settings["text_config"]["tie_word_embeddings"] = settings["tie_word_embeddings"] = False
    settings["vision_config"] |= {"hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    model = transformers.Qwen3VLForConditionalGeneration(transformers.Qwen3VLConfig(**settings))
    # reasoning and answer end after some tokens
    (change or partial(lively, tokenizer=tokenizer, likely=("</think>", tk.END)))(model)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(model, tokenizer, folder)
    return folder


def taught(folder: Path, *chains: Sequence[str]) -> Path:
    """A Qwen3-VL that outputs the last token's successor in the chains, independent of the context."""
    ids = [demo_tokenizer().convert_tokens_to_ids([_byte_level(piece) for piece in chain]) for chain in chains]
    assert all(token is not None for chain in ids for token in chain), chains
    return qwen3_vl(folder, lambda model: following(model, *ids))


def _byte_level(piece: str) -> str:
    """A token's text in the byte-level spelling of the vocabulary."""
    return piece.replace(" ", "Ġ").replace("\n", "Ċ")


def qwen2_5_vl(folder: Path) -> Path:
    tokenizer = demo_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in (tk.IMAGE, tk.VIDEO, tk.IMAGE_START, tk.IMAGE_END)}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3]}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer), "rope_parameters": {**rope, "rope_theta": 1e4}},
        vision_config={**vision, "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]},
        image_token_id=ids[tk.IMAGE],
        video_token_id=ids[tk.VIDEO],
        vision_start_token_id=ids[tk.IMAGE_START],
        vision_end_token_id=ids[tk.IMAGE_END],
        tie_word_embeddings=False,
    )
    pixels = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    processor = transformers.Qwen2VLImageProcessorPil(patch_size=14, size=pixels)
    return _saved(transformers.Qwen2_5_VLForConditionalGeneration(config), tokenizer, folder, processor)


def idefics3(folder: Path, *, smolvlm: bool = False) -> Path:
    """SmolVLM's first (idefics3) or second (smolvlm) generation: image tiles, and the whole image."""
    template = (
        "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
        "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
        "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
        "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
        "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    )
    marks = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 3) for column in range(1, 3)]
    tokenizer = words(template, *marks, *rows, eos_token="<end_of_utterance>", pad_token=tk.PAD)
    if smolvlm:
        kinds = transformers.SmolVLMConfig, transformers.SmolVLMForConditionalGeneration
        image_processor = transformers.SmolVLMImageProcessorPil
    else:
        kinds = transformers.Idefics3Config, transformers.Idefics3ForConditionalGeneration
        image_processor = transformers.Idefics3ImageProcessorPil
    config = kinds[0](
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(tokenizer), "pad_token_id": 0},
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    settings = image_processor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}).to_dict()
    kind = "SmolVLM" if smolvlm else "Idefics3"
    _saved(kinds[1](config), tokenizer, folder)
    return _described(folder, f"{kind}Processor", settings, image_seq_len=4)


def gemma3(folder: Path) -> Path:
    """Gemma 3, with a sliding window of 16 tokens in every second layer."""
    template = (
        "{{ bos_token }}{% for message in messages %}<start_of_turn>"
        "{{ 'model' if message['role'] == 'assistant' else 'user' }}\n"
        "{% for part in message['content'] %}"
        "{{ '<start_of_image>' if part['type'] == 'image' else part['text'] | trim }}"
        "{% endfor %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    )
    images = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokens = {"bos_token": "<bos>", "eos_token": "<end_of_turn>", "pad_token": "<pad>"}
    tokenizer = words(template, "<start_of_turn>", **tokens, extra_special_tokens=images)
    config = transformers.Gemma3Config(
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**VISION, "image_size": 28, "patch_size": 7},
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
        tie_word_embeddings=False,
    )
    settings = transformers.Gemma3ImageProcessorPil(size={"height": 28, "width": 28}).to_dict()
    _saved(transformers.Gemma3ForConditionalGeneration(config), tokenizer, folder)
    return _described(folder, "Gemma3Processor", settings, image_seq_length=4)


def llava(folder: Path) -> Path:
    template = (
        "{% for message in messages %}{{ message['role'] | upper }}: {% for part in message['content'] %}"
        "{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %} {% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    )
    tokenizer = words(template, "<image>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    config = transformers.LlavaConfig(
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(tokenizer)},
        vision_config={"model_type": "clip_vision_model", **VISION, "image_size": 32, "patch_size": 8},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    settings = transformers.LlavaImageProcessorPil(**size).to_dict()
    _saved(transformers.LlavaForConditionalGeneration(config), tokenizer, folder)
    layout = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return _described(folder, "LlavaProcessor", settings, **layout)


def qwen3(folder: Path) -> Path:
    """A language model with a template that ignores text content given as parts, like Qwen3's own."""
    template = (
        "{%- for message in messages %}{%- if message.content is string %}{%- set content = message.content %}"
        "{%- else %}{%- set content = '' %}{%- endif %}"
        "{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    )
    tokenizer = words(template, eos_token=tk.END, pad_token=tk.PAD)
    config = transformers.Qwen3Config(**TEXT, vocab_size=len(tokenizer))
    return _saved(transformers.Qwen3ForCausalLM(config), tokenizer, folder)


def llama(folder: Path) -> Path:
    """A language model with a SentencePiece-like tokenizer: spaces as ▁, and byte tokens for unknown characters."""
    special = ["<unk>", "<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    spelled = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spelled.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    spelled.decoder = decoders.Sequence(steps)
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))], show_progress=False
    )
    spelled.train_from_iterator(
        ["how many red bars are there in the picture of the sales of May and June"] * 3, trainer
    )
    template = (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim }}"
        "<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=spelled, bos_token="<s>", eos_token="<|eot_id|>", chat_template=template
    )
    config = transformers.LlamaConfig(**TEXT, vocab_size=len(tokenizer))
    return _saved(transformers.LlamaForCausalLM(config), tokenizer, folder)


def _saved(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, image_processor: Any = None
) -> Path:
    lively(model, tokenizer, (tokenizer.eos_token,))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    for part in (model, tokenizer, image_processor):
        if part is not None:
            part.save_pretrained(folder)
    return folder


def _described(folder: Path, kind: str, image_processor: dict[str, Any], **layout: Any) -> Path:
    """Write the files that AutoProcessor reads: the processor's class and the image layout."""
    described = {"processor_class": kind, **layout}
    (folder / "processor_config.json").write_text(json.dumps(described))
    (folder / "preprocessor_config.json").write_text(json.dumps(image_processor, default=str))
    return folder
