#!/usr/bin/env bash
# sglang-router 0.3.2 before the replicas of a model, by x-smg-routing-key, which has the value of x-session-id:
#   PORT=8100 REPLICAS="10.0.0.1:8000 10.0.0.2:8000" ./sglang-router.sh
set -euo pipefail
exec sglang-router launch --host "${HOST:-127.0.0.1}" --port "$PORT" --worker-urls $(printf 'http://%s ' $REPLICAS) \
  --policy "${POLICY:-manual}" --assignment-mode min_group --max-payload-size 67108864 \
  --prometheus-host 127.0.0.1 --prometheus-port "${METRICS_PORT:-29000}" \
  --health-check-interval-secs 5 --log-level warn
