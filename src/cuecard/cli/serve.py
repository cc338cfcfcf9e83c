"""`cuecard serve`: the pair behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Annotated

import typer
from rich.console import Console

from cuecard.domain.errors import BadInput, MissingExtra
from cuecard.models import spec
from cuecard.pair import policy_with
from cuecard.strategies.policy import Policy
from cuecard.strategies.run import known

DEFAULT_PORT = 8400


def serve(
    small: Annotated[str, typer.Option(help="The model that writes the reasoning.")] = "demo-small",
    large: Annotated[str, typer.Option(help="The model that speaks the answer.")] = "demo-large",
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one.")] = DEFAULT_PORT,
    strategy: Annotated[str, typer.Option(help="Of the model `cuecard`, unless a request says otherwise.")] = "mutual",
    free_form: Annotated[
        str, typer.Option(help="Its strategy for requests that want a text of their own: transfer or short.")
    ] = "transfer",
    schedule: Annotated[str | None, typer.Option(help="thrifty, overlap (the default) or eager.")] = None,
    accept: Annotated[
        str | None,
        typer.Option(help="When short answers need no reasoning: agree, agree+confidence(t) or confidence(t)."),
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Most tokens of reasoning.")] = None,
) -> None:
    """Serve a pair as one model to every OpenAI client."""
    try:
        import uvicorn

        from cuecard.gateway.app import application
        from cuecard.gateway.service import Service
    except ImportError as error:
        raise MissingExtra(f"the gateway needs {error.name}", "pip install 'cuecard[gateway]'") from error
    # all that can be wrong is found before a model is loaded
    known(strategy), known(free_form)
    policy = policy_with(Policy(), schedule=schedule, accept=accept, budget=budget)
    with closing(_listener(host, port)) as listener:
        models = {role: spec.load(given, role) for role, given in (("small", small), ("large", large))}
        service = Service(models, strategy=strategy, free_form=free_form, policy=policy)
        address = "http://{}:{}/v1".format(*listener.getsockname()[:2])
        Console(stderr=True, highlight=False).print(f"{small} and {large} are served as cuecard at {address}")
        uvicorn.Server(uvicorn.Config(application(service), log_level="warning")).run(sockets=[listener])


def _listener(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"cannot listen on {host}:{port}: {reason}", "give another --host or --port") from error
