"""Converts SmolLM2-135M from GGUF to a checkpoint for Transformers and vLLM:  python pretrained_hf.py GGUF FOLDER

Runs with the Python of .servers/vllm, and needs the packages gguf and accelerate.
"""

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

file, folder = Path(sys.argv[1]), sys.argv[2]
tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32")
del read.config.quantization_config
model = type(read)(read.config)  # a model marked as quantized cannot be saved
model.load_state_dict(read.state_dict())
tokenizer.save_pretrained(folder)
model.save_pretrained(folder)
