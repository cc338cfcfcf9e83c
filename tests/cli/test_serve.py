"""`cuecard serve`, up to the listening socket."""

from __future__ import annotations

import socket

import pytest
from typer.testing import CliRunner

from cuecard.cli import app


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_it_says_where_it_answers_and_where_its_dashboard_is(host, shown, monkeypatch):
    if ":" in host and not _has_ipv6():
        pytest.skip("there is no IPv6 here")
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: None)
    models = ["--small", "http://127.0.0.1:9/v1#a", "--large", "http://127.0.0.1:9/v1#b", "--no-probe"]
    result = CliRunner().invoke(app, ["serve", "--host", host, "--port", "0", *models])
    assert result.exit_code == 0, result.output
    assert f"a and b are served as cuecard at http://{shown}:" in result.stderr
    where = result.stderr.split(" at ")[1].split("/v1")[0]
    assert f"the dashboard is at {where}/dashboard\n" in result.stderr


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
