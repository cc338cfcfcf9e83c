#!/usr/bin/env bash
# Envoy 1.40.0 before the replicas of a model, with the settings of envoy.yaml:
#   PORT=8100 REPLICAS="10.0.0.1:8000 10.0.0.2:8000" ./envoy.sh
set -euo pipefail
endpoints=$(for replica in $REPLICAS; do
  printf '{endpoint: {address: {socket_address: {address: "%s", port_value: %s}}}}, ' "${replica%:*}" "${replica##*:}"
done)
config=$(sed "s|\$HOST|${HOST:-127.0.0.1}|; s|\$PORT|$PORT|; s|\$METRICS_PORT|${METRICS_PORT:-9901}|
  s|\$ENDPOINTS|$endpoints|" "$(dirname "$0")/envoy.yaml")
exec envoy --use-dynamic-base-id --concurrency "${CONCURRENCY:-2}" --log-level warning --config-yaml "$config"
