#!/usr/bin/env bash
# A pair of Qwen3-VL sizes in two vLLM engines on this machine's device: what cooperation costs, and where it breaks even.
#
#   benchmarks/gpu_pair.sh [FILE.json]      by itself benchmarks/results/gpu_pair.json
#
# On a GPU the sizes are 2B and 8B, with random weights, or the checkpoints that SMALL and LARGE name; it ends within ten
# minutes. Without a GPU they are tiny, so that the script itself can be tried anywhere. These can be set:
#   SMALL, LARGE  presets or directories (qwen3-vl-2b, qwen3-vl-8b)    SHARES   memory of each engine (0.25,0.6)
#   CARD          tokens of the small model's reasoning (256)         REPEATS  of each measurement (5)
#   REASONING     tokens of the large model's own (256,512,1024,2048) IMAGE    visual tokens of the image (256)
#   AGREE         rates of agreement (0.5,0.86, the paper's Table 10) PYTHON   the interpreter that has both (python)
set -euo pipefail

python=${PYTHON:-python}
gpu=$("$python" -c 'import torch; print(int(torch.cuda.is_available()))')

if (( gpu )); then
  small=qwen3-vl-2b large=qwen3-vl-8b shares=0.25,0.6 card=256 reasoning=256,512,1024,2048 image=256 repeats=5 more=()
else
  small=qwen3-vl-tiny large=qwen3-vl-tiny-deep shares=0.1,0.1 card=16 reasoning=16,32 image=4 repeats=1 more=(--eager)
fi

exec "$python" "$(dirname "$0")/gpu_pair.py" --small "${SMALL:-$small}" --large "${LARGE:-$large}" \
    --shares "${SHARES:-$shares}" --card "${CARD:-$card}" --reasoning "${REASONING:-$reasoning}" \
    --image "${IMAGE:-$image}" --agree "${AGREE:-0.5,0.86}" --repeats "${REPEATS:-$repeats}" "${more[@]}" ${1:+--out "$1"}
