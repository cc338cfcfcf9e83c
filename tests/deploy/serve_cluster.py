"""A local Ray cluster in a process of its own, in which `serve run` runs YAML files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import descendants

CALM = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
    "CUECARD_NO_PROBE": "1",
}
"""Environment variables of Ray: nothing is sent home, and a busy machine is not taken for a failed one."""
DRIVER = Path(__file__).with_name("serve_driver.py")


class ServeCluster:
    """A cluster and its applications, from the beginning to the end of the context."""

    def __enter__(self) -> ServeCluster:
        pipe = subprocess.PIPE
        self._driver = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(DRIVER)], stdin=pipe, stdout=pipe, text=True, env=os.environ | CALM
        )
        self.do("ready")
        return self

    def __exit__(self, *failure: object) -> None:
        assert self._driver.stdin
        assert self._driver.stdout
        self._driver.stdin.close()
        self._driver.wait()
        self._driver.stdout.close()

    def do(self, command: str, **given: Any) -> Any:
        """The result of a command: a method of `serve_driver.Driver`."""
        assert self._driver.stdin
        assert self._driver.stdout
        self._driver.stdin.write(json.dumps({"command": command, **given}) + "\n")
        self._driver.stdin.flush()
        line = self._driver.stdout.readline()
        assert line, "the cluster has ended"
        result = json.loads(line)
        assert "error" not in result, result["error"]
        return result["value"]

    def run(self, application: Path) -> None:
        """`serve run` a YAML file, and wait until all of its deployments are healthy."""
        self.do("run", application=str(application))
        self.until(lambda: self.do("healthy"))

    def replicas(self, deployment: str) -> list[int]:
        """Process ids of the replicas of a deployment that are running."""
        return descendants(self._driver.pid, f"ray::ServeReplica:cuecard:{deployment}")

    @staticmethod
    def until(condition: Callable[[], object]) -> None:
        """Wait for a condition; the time limit is that of the test."""
        while not condition():
            time.sleep(0.2)
