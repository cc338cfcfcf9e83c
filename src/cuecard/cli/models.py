"""`cuecard models` and `cuecard check`: models, the servers of a cuecard.toml, and their abilities."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cuecard.cli import make_console
from cuecard.cli.options import closing_models
from cuecard.domain.errors import CuecardError, required
from cuecard.models import probe as probes
from cuecard.models import spec
from cuecard.models.base import Abilities, Model
from cuecard.models.openai import OpenAIModel
from cuecard.models.probe import ProbeResults

if TYPE_CHECKING:
    from cuecard.gateway.tables import Key

ANSWERS = {True: "yes", False: "no", None: "not known"}


def models(
    specs: Annotated[
        list[str] | None,
        typer.Argument(help="Models to show: names, directories, hf:ORG/NAME or URL#NAME. Default: the embedded pair."),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Probe served models that are not known yet.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list with an object for each model.")] = False,
) -> None:
    """Show models and what each can do."""
    console = make_console()
    objects: list[dict[str, Any]] = []
    failed = 0
    for name in specs or list(spec.EMBEDDED):
        try:
            model = spec.load(name)
        except CuecardError as error:
            failed += 1
            objects.append({"model": name, "error": error.message, "hint": error.hint})
            if not as_json:
                console.print(block(name, {"error": str(error)}))
            continue
        [found] = asyncio.run(_probed([model], probe=probe and probes.wanted()))
        probed = {} if found is None else {"probe": asdict(found)}
        objects.append({"model": name, **as_object(model.abilities), **probed})
        if not as_json:
            console.print(block(name, described(model.abilities) if found is None else facts(found)))
    if as_json:
        typer.echo(json.dumps(objects, ensure_ascii=False, indent=2))
    if failed:
        raise typer.Exit(2)


def facts(found: ProbeResults) -> dict[str, str]:
    """The results of a probe, in words."""
    if not found.reachable:
        return {"error": found.problem or "it does not answer"}
    pace = ""
    if found.first_s is not None and found.again_s is not None:
        pace = f" (a prompt {found.first_s * 1000:.0f} ms, again {found.again_s * 1000:.0f} ms, measured)"
    listed = "" if found.listed is not False else f"; it lists {', '.join(found.served[:8])}"
    tokens = "" if found.short_tokens is None else f" ({found.short_tokens} tokens on a question that tempts to reason)"
    reads = [
        f"{form} {'right' if each.right else 'wrong'}, {each.tokens} tokens{'' if each.short else ', runs on'}"
        for form, each in found.reads.items()
    ]
    return {
        "listed": ANSWERS[found.listed] + listed,
        "short answers": ANSWERS[found.short_answers] + tokens,
        "decodes under a grammar": found.constraint or "no",
        "reads cards": "; ".join(reads) or "not known",
        "cards": ", ".join(found.cards) or "none was read well: notes",
        "reasoning": ANSWERS[found.reasoning],
        "continues given reasoning": ANSWERS[found.prefill],
        "probabilities": ANSWERS[found.logprobs],
        "images": ANSWERS[found.images],
        "prefix cache": ANSWERS[found.prefix_cache] + pace,
        "warming": "yes" if found.pays else "no: it is not clearly faster the second time",
        "stops when its client has gone": ANSWERS[found.aborts],
        "notes": "; ".join(found.notes) or "none",
    }


async def _probed(models: Sequence[Model], *, probe: bool = True, fresh: bool = False) -> list[ProbeResults | None]:
    """Results of probes of the served models, cached unless `fresh`; None for others. Closes the models."""
    tell = partial(print, file=sys.stderr, flush=True)

    async def found(model: Model) -> ProbeResults | None:
        return await probes.adapted(model, fresh=fresh, tell=tell) if isinstance(model, OpenAIModel) and probe else None

    async with closing_models(models):
        return list(await asyncio.gather(*map(found, models)))


def described(able: Abilities) -> dict[str, str]:
    """A model's abilities in words."""
    words = as_object(able)
    words |= {"cards": ", ".join(able.card_formats), "notes": "; ".join(able.notes) or "none"}
    words["acceptance_table"] = _table(able)
    return {
        name.replace("_", " "): value if isinstance(value, str) else ANSWERS[value] for name, value in words.items()
    }


def as_object(able: Abilities) -> dict[str, Any]:
    """A model's abilities as plain data; null: unknown."""
    return {
        "images": able.images,
        "probabilities": able.logprobs,
        "scoring": able.scoring,
        "keeps_prefixes": able.prefix_sessions,
        "cards": list(able.card_formats),
        "notes": list(able.notes),
        "trained_on": None if able.scope is None else able.scope.about,
        "acceptance_table": None if able.acceptance is None else able.acceptance.as_object(),
    }


def _table(able: Abilities) -> str:
    """The acceptance table in the model's checkpoint, in words."""
    if (table := able.acceptance) is None:
        return "no"
    about = f"for {table.small}, fitted on {table.questions:,} questions of {', '.join(table.tasks) or 'unnamed tasks'}"
    if (seen := table.evidence) is None:
        return about
    accepted = f"{seen.rule} accepted {seen.accepted:,} of them, {seen.wrong:,} wrong"
    return f"{about}; {accepted}; both models got {100 * seen.beta:.1f}% wrong (beta)"


def block(name: str, facts: Mapping[str, str]) -> Group:
    """A model's name and, below it, one line per fact, wrapped within its own column."""
    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column(overflow="fold")
    for fact, value in facts.items():
        lines.add_row(f"  {fact}", Text(value))
    return Group(Text(name, style="bold"), lines)


GATEWAY = "pip install '.[gateway]' in a checkout"


def check(
    config: Annotated[Path, typer.Argument(help="The cuecard.toml.")] = Path("cuecard.toml"),
    probe: Annotated[bool, typer.Option(help="Probe the servers; without it only the file is read.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Read a cuecard.toml and probe its servers; other commands use the results."""
    chosen = required("cuecard.gateway.config", "the gateway", GATEWAY).read(config)
    required("cuecard.gateway.tables", "the gateway", GATEWAY).check_memory(chosen.pairs)
    roles = [(name, role, ones) for name, pair in chosen.pairs.items() for role, ones in pair.roles.items()]
    tables = {one.model: one.table() for _, _, ones in roles for one in ones}
    served = {name: table for name, table in tables.items() if isinstance(spec.parse(name), spec.Served)}
    models = [spec.load(table) for table in served.values()]
    probed = zip(served, asyncio.run(_probed(models, probe=probe, fresh=True)), strict=True)
    found = {name: each for name, each in probed if each is not None}
    lost = [name for name, each in found.items() if not each.reachable]
    if as_json:
        typer.echo(json.dumps({name: asdict(each) | {"settings": each.settings} for name, each in found.items()}))
    else:
        console = make_console()
        for name, each in found.items():
            console.print(block(name, facts(each)))
        for name, role, ones in roles:
            console.print(f"{name}, {role}: {', '.join(one.model for one in ones)}", markup=False)
        for key in chosen.keys:
            console.print(_described(key), markup=False)
        but = f", but these servers cannot be reached: {', '.join(lost)}" if lost else ""
        where = f"; what was found is in {probes.results_path()}" if found else ""
        console.print(f"{config} is in order{but}{where}", markup=False, soft_wrap=True)
    if lost:
        raise typer.Exit(2)


def _described(key: Key) -> str:
    """The limits of a key, on one line."""
    limits = key.model_dump(exclude={"name", "sha256", "expires", "pairs"}, exclude_none=True)
    parts = [f"{limit} {value:,.10g}" for limit, value in limits.items()]
    parts += [] if key.expires is None else [f"expires {key.expires:%Y-%m-%d %H:%M %Z}"]
    parts += [] if key.pairs is None else [f"only {', '.join(key.pairs)}"]
    return f"key {key.name}: {'; '.join(parts) or 'no limits'}"
