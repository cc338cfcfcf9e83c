#!/usr/bin/env bash
# Latency of a pair of Qwen3-VL sizes on this machine, with random weights: profile, fit, break-even points, report.
#
#   benchmarks/gpu_profile.sh [DIRECTORY]      by itself runs/gpu-profile
#
# On a GPU the two sizes are the largest that fit together, and it ends within ten minutes; without one they are tiny,
# so that the script itself can be tried anywhere. Interrupted, the same command goes on. These can be set:
#   MINUTES      of measuring (6)                 AGREE     share of accepted short answers (0.86, the paper's Table 10)
#   OUTPUTS      output tokens (1,8,32,128)       IMAGES    sides in pixels (128,448,1024)
#   ATTENTION    ways to decode (compiled,sdpa)   REPEATS   most rounds (12)
#   DRAWS        bootstrap draws (200)            PYTHON    the interpreter that has cuecard (python)
set -euo pipefail

out=${1:-runs/gpu-profile}
python=${PYTHON:-python}
cuecard() { "$python" -m cuecard "$@"; }

free=$("$python" -c '
import torch
print(torch.cuda.mem_get_info()[0] // 10**9 if torch.cuda.is_available() else 0)')

if   (( free >= 28 ));  then pair="qwen3-vl-2b qwen3-vl-8b"
elif (( free >= 18 ));  then pair="qwen3-vl-2b qwen3-vl-4b"
elif (( free > 0 ));    then pair="qwen3-vl-2b qwen3-vl-8b"; slice="--layers 8"
else pair="qwen3-vl-tiny qwen3-vl-tiny-deep"; ATTENTION=${ATTENTION:-fused,sdpa}; IMAGES=${IMAGES:-128,256}
fi

read -ra models <<< "$pair"
read -ra more <<< "${slice:-}"
cuecard profile "${models[@]}" --random-weights --out "$out" "${more[@]}" \
    --output-tokens "${OUTPUTS:-1,8,32,128}" --image-size "${IMAGES:-128,448,1024}" \
    --attention "${ATTENTION:-compiled,sdpa}" --repeats "${REPEATS:-12}" --max-minutes "${MINUTES:-6}"
cuecard fit "$out" --draws "${DRAWS:-200}"
cuecard breakeven "$out" --agree "${AGREE:-0.86}" --draws "${DRAWS:-200}"
cuecard report "$out"
