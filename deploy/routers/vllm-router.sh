#!/usr/bin/env bash
# vllm-router 0.1.17 before the replicas of a model, by x-session-id:
#   PORT=8100 REPLICAS="10.0.0.1:8000 10.0.0.2:8000" ./vllm-router.sh
set -euo pipefail
exec vllm-router --host "${HOST:-127.0.0.1}" --port "$PORT" --worker-urls $(printf 'http://%s ' $REPLICAS) \
  --policy "${POLICY:-consistent_hash}" --max-payload-size 67108864 --prometheus-port "${METRICS_PORT:-29000}" \
  --health-check-interval-secs 5 --log-level warning
