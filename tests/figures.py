"""Tables of the docs, made of the committed results of the benchmarks: no figure is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cuecard.latency.analysis.latency_model import Fit, read_all
from cuecard.latency.analysis.measured import roofs as measured_roofs
from cuecard.latency.simulate import breakeven
from cuecard.report.latency.tables import largest
from cuecard.report.page import formatting
from cuecard.strategies.policy import Schedule

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
ARMS = {
    "small_short": "small, short",
    "large_short": "large, short",
    "small_reason": "small, reasoning",
    "large_reason": "large, reasoning",
    "transfer": "`transfer`",
    "mutual": "`mutual`",
    "mutual_agree": "`mutual`, agreement alone",
}


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}" if seconds >= 0.01 else f"{1000 * seconds:.2f}"


def interval(told: Mapping[str, float]) -> str:
    return f"{100 * told['low']:.1f} to {100 * told['high']:.1f}"


def headline(told: Mapping[str, Any]) -> str:
    slow = told["arms"]["large_reason"]["mean_s"]
    rows = [
        (
            name,
            percent((arm := told["arms"][key])["accuracy"]),
            interval(arm),
            milliseconds(arm["mean_s"]),
            f"{arm['mean_tokens']:.1f}",
            f"{slow / arm['mean_s']:.2f}×",
        )
        for key, name in ARMS.items()
    ]
    head = ("", "right", "95% interval", "mean ms", "tokens generated", "speed-up")
    return table(head, rows) + "\n" + measured(told)


def measured(told: Mapping[str, Any]) -> str:
    on = told["machine"]
    threads = f", {on['torch_threads']} threads" if on["torch_threads"] else ""
    where = on["accelerator"] or f"{on['cores']} cores of {on['processor']}{threads}"
    boards = f"{told['boards']:,} held-out boards, seed {told['seed']}" if "boards" in told else ""
    return ", ".join(filter(None, (boards, f"measured on {on['date']}", where))) + ".\n"


def tasks(told: Mapping[str, Any]) -> str:
    rows = [
        (
            task,
            part["boards"],
            *(percent(part["arms"][arm]["accuracy"]) for arm in ARMS),
            part["accepted"],
            part["accepted_wrong"],
            f"{part['speed_up']:.2f}×",
        )
        for task, part in told["kinds"].items()
    ]
    arms = ("short S", "short L", "reason S", "reason L", "transfer", "mutual", "agree")
    legend = "S is the small model, L the large one; accepted, wrong and speed-up are those of `mutual`.\n"
    return table(("task", "boards", *arms, "accepted", "wrong", "speed-up"), rows) + "\n" + legend


def routes(told: Mapping[str, Any]) -> str:
    count = sum(told["routes"].values())
    return table(("route", "questions", "share"), [(r, n, percent(n / count)) for r, n in told["routes"].items()])


def paired(told: Mapping[str, Any]) -> str:
    rows = [
        (name, f"{100 * d['difference']:+.1f}", interval(d), d["better"], d["worse"], f"{d['p']:.2g}")
        for name, d in told["paired"].items()
    ]
    return table(("difference", "points", "95% interval", "better on", "worse on", "p"), rows)


def acceptance(told: Mapping[str, Any]) -> str:
    count = told["boards"]
    rows = [
        (
            f"`{rule}`",
            percent(d["accepted"] / count),
            percent(d["wrong"] / d["accepted"]) if d["accepted"] else "-",
            percent(d["accuracy"]),
        )
        for rule, d in told["acceptance"].items()
    ]
    head = ("rule", "accepted without reasoning", "of these wrong", "`mutual` right")
    return table(head, rows) + "\n" + measured(told).replace("held-out", "validation")


def targets(told: Mapping[str, Any]) -> str:
    arms, wanted = told["arms"], []

    def row(what: str, least: str, found: str, met: bool) -> None:
        wanted.append((what, least, found, "yes" if met else "no"))

    right = {name: arm["accuracy"] for name, arm in arms.items()}
    gap = {
        "small, reasoning above short": (right["small_reason"] - right["small_short"], 0.15),
        "large, short above small, short": (right["large_short"] - right["small_short"], 0.10),
        "large, reasoning above short": (right["large_reason"] - right["large_short"], 0.15),
    }
    row("large, reasoning", "95%", percent(right["large_reason"]), right["large_reason"] >= 0.95)
    row("small, reasoning", "88%", percent(right["small_reason"]), right["small_reason"] >= 0.88)
    for what, (found, least) in gap.items():
        row(what, f"{100 * least:.0f} points", f"{100 * found:.1f} points", found >= least)
    handed = told["paired"]["transfer - small_reason"]["difference"]
    row("`transfer` against small, reasoning", "0 points", f"{100 * handed:+.1f} points", handed >= 0)
    lost = told["paired"]["mutual - large_reason"]["difference"]
    row("`mutual` against large, reasoning", "-2 points", f"{100 * lost:+.1f} points", lost >= -0.02)
    accepted = told["accepted"] / told["boards"]
    row("accepted without reasoning", "40%", percent(accepted), accepted >= 0.4)
    wrong = told["accepted_wrong"] / max(1, told["accepted"])
    row("of these wrong", "at most 5%", percent(wrong), wrong <= 0.05)
    row("mean tokens of reasoning", "60", f"{told['reasoning_tokens']:.1f}", told["reasoning_tokens"] > 60)
    if vqa := told.get("easy_vqa"):
        row("easy-VQA, large, short", "97%", percent(vqa["accuracy"]), vqa["accuracy"] >= 0.97)
    ratio = told["seconds_a_token"]["ratio"]
    row("time a token, large to small", "2×", f"{ratio:.2f}×", ratio >= 2)
    row("`mutual`, thrifty, faster than large, reasoning", "2.5×", f"{told['speed_up']:.2f}×", told["speed_up"] >= 2.5)
    return table(("what", "wanted", "measured", "met"), wanted)


def easy_vqa(told: Mapping[str, Any]) -> str:
    found = told.get("easy_vqa")
    return f"{percent(found['accuracy'])} of {found['questions']:,} questions, 95% interval {interval(found)}.\n"


def handoff(told: Mapping[str, Any]) -> str:
    rows = told["figures"]["rows"]
    cells = sorted({(row["reasoning_tokens"], row["visual_tokens"]) for row in rows})
    median = {(row["arm"], row["reasoning_tokens"], row["visual_tokens"]): row["median_s"] for row in rows}
    lines = [
        (tokens, visual, *(milliseconds(median[arm, tokens, visual]) for arm in ("streamed", "whole")))
        for tokens, visual in cells
    ]
    head = ("reasoning tokens", "visual tokens", "read while written, ms", "read at once, ms")
    ratios = told["figures"]["ratios"]
    ends = "".join(
        f"From end to end, {name}: {ratios['streamed'][name]:.2f}× read while written, "
        f"{ratios['whole'][name]:.2f}× read at once.\n"
        for name in ratios["streamed"]
    )
    return f"{table(head, lines)}\n{ends}Medians; {measured(told)}"


def schedules(told: Mapping[str, Any]) -> str:
    figures = told["figures"]
    rows = [
        (
            name.replace("_", ", "),
            percent(arm["accuracy"]),
            milliseconds(arm["mean_s"]),
            f"{arm['mean_tokens']:.1f}",
            f"{arm['speed_up']:.2f}×",
        )
        for name, arm in figures["arms"].items()
    ]
    head = ("", "right", "mean ms", "tokens generated", "speed-up")
    return table(head, rows) + "\n" + measured(figures | {"machine": told["machine"]})


def overhead(told: Mapping[str, Any]) -> str:
    rows = [
        (name, f"{f['idle_ms_median']:.2f}", percent(f["share_of_total"]), f["prompt_tokens_computed_twice"])
        for name, f in told["figures"].items()
    ]
    head = ("schedule", "median ms without any call", "share of the time", "prompt tokens computed twice")
    return table(head, rows) + "\n" + measured(told)


def gateway(told: Mapping[str, Any]) -> str:
    figures = told["figures"]
    rates = {"mutual": "gateway, mutual", "one call": "gateway, one call", "LiteLLM, one call": "LiteLLM, one call"}
    rows = [
        (
            way if "one call" in way else f"`{way}`, two calls",
            *(f"{added[p]:.2f}" for p in ("p50_ms", "p95_ms", "p99_ms")),
            f"{figures['throughput'][rates[way]]['per_cpu_s']:,.0f}" if way in rates else "",
        )
        for way, added in figures["added"].items()
    ]
    head = ("", "p50 ms", "p95 ms", "p99 ms", "requests per CPU second")
    return f"{table(head, rows)}\n{crowd(figures['streaming'])}{measured(told)}"


def crowd(many: Mapping[str, Any]) -> str:
    return (
        f"{many['clients']} streaming clients for {many['seconds']:.0f} s: {many['requests']:,} requests, "
        f"{many['errors']} errors, {many['usage_tokens'] - many['upstream_tokens']} tokens miscounted;\n"
        f"memory {many['resident_mib']['after_a_sixth']:.0f} MiB after a sixth of it, "
        f"{many['resident_mib']['at_the_end']:.0f} MiB at the end.\n"
    )


def soak(told: Mapping[str, Any]) -> str:
    return crowd(told["figures"]["soak"]) + measured(told)


def warming(told: Mapping[str, Any]) -> str:
    rows = [
        (
            way,
            milliseconds(f["first_reasoning_token_s"]),
            milliseconds(f["handoff_s"]),
            " to ".join(map(milliseconds, f["handoff_quartiles_s"])),
            f"{f['cached_tokens_of_reader']:.0f} of {f['prompt_tokens_of_reader']:.0f}",
        )
        for way, f in told["figures"].items()
    ]
    head = ("", "first reasoning token, ms", "hand-off, ms", "its quartiles, ms", "prompt tokens of the reader cached")
    return table(head, rows) + "\n" + measured(told)


def handoff_servers(told: Mapping[str, Any]) -> str:
    figures = {way: found for way, found in told["figures"].items() if way != "ratio"}
    rows = [
        (
            way,
            f"{f['card_tokens']:.0f}",
            f"{f['handoff_s']:.2f}",
            f"{f['handoffs_s'][0]:.2f} to {f['handoffs_s'][-1]:.2f}",
            f"{f['cached_tokens_of_reader']:.0f} of {f['prompt_tokens_of_reader']:.0f}",
            f["n"],
        )
        for way, f in figures.items()
    ]
    head = ("", "card, tokens", "hand-off, median s", "smallest to largest", "prompt tokens of the reader cached", "n")
    return f"{table(head, rows)}\nWarmed / not warmed: {told['figures']['ratio']:.2f}; {measured(told)}"


def of(name: str, draw: Callable[[Mapping[str, Any]], str]) -> Callable[[], str]:
    """A table of one result file."""

    def made() -> str:
        path = RESULTS / f"{name}.json"
        return draw(json.loads(path.read_text())) if path.exists() else "Not measured yet.\n"

    return made


PROFILED = RESULTS / "profile-cpu"


def held_out() -> str:
    fits = read_all(PROFILED)
    rows = [
        (fit.model, name, each.points, percent(each.median), percent(each.p90))
        for fit in fits
        for name, each in fit.held_out.items()
    ]
    return table(("model", "of", "points", "median error", "nine in ten below"), rows) + "\n" + profiled_on(fits[0])


def mock_fit(told: Mapping[str, Any]) -> str:
    figures = told["figures"]
    rows = [
        ("mock server", name, each["points"], percent(each["median"]), percent(each["p90"]))
        for name, each in figures["held_out"].items()
    ]
    names = {
        "fixed_s": "a request",
        "prefill_s_per_token": "a prompt token",
        "decode_s_per_token": "a token written",
    }
    found = ", ".join(
        f"{names[name]} {1e6 * each['found_s']:,.0f} µs (true {1e6 * each['known_s']:,.0f})"
        for name, each in figures["coefficients"].items()
    )
    head = ("model", "of", "points", "median error", "nine in ten below")
    return table(head, rows) + f"\nFound: {found}.\nThe fit's readings were {measured(told)}"


def profiled_on(fit: Fit) -> str:
    return f"The fit's readings were {measured({'machine': fit.measured['machine']})}"


def break_even() -> str:
    (pair,) = breakeven.read(PROFILED / breakeven.FILE)
    kinds = [("transfer", None, Schedule.OVERLAP), ("mutual", pair.agree, Schedule.OVERLAP)]
    kinds += [("mutual", pair.agree, Schedule.EAGER)]
    alone = {each.output: each.crossing for each in pair.alone if each.visual == pair.workload.visual}
    by = {(each.strategy, each.agree, each.schedule, each.output): each.crossing for each in pair.together}
    outputs = dict.fromkeys(each.output for each in pair.together)
    rows = [
        (output, formatting.crossing(alone[output]), *(formatting.crossing(by[(*kind, output)]) for kind in kinds))
        for output in outputs
    ]
    heads = [f"`{strategy}`, {schedule}" for strategy, _, schedule in kinds]
    rates = f"{percent(pair.agree or 0)} of short answers accepted, {percent(pair.confirm)} of the others confirmed"
    said = f"{rates};\nestimated, 95% intervals of {pair.draws} draws; beyond 128 tokens extrapolated.\n"
    return table((f"{pair.large} writes", f"{pair.small} alone", *heads), rows) + "\n" + said


def estimates(told: Mapping[str, Any]) -> str:
    rows = [
        (f"`{row['strategy']}`", row["schedule"], milliseconds(row["measured_s"]), f"{row['times_the_estimate']:.2f}")
        for row in told["figures"]["arms"]
    ]
    figures = told["figures"]
    said = measured({**told, "boards": figures["boards"], "seed": figures["seed"]})
    return table(("strategy", "schedule", "measured, ms", "times the estimate"), rows) + "\n" + said


def server_truth(told: Mapping[str, Any]) -> str:
    """By metric the worst over all loads."""
    loads = told["figures"]["loads"].values()
    rows = []
    for metric in dict.fromkeys(name for load in loads for name in load):
        own = [load[metric] for load in loads if metric in load]
        shown = [max((each["shown"][what] for each in own), key=lambda e: e["error_s"]) for what in SHOWN]
        cells = [
            f"{1000 * each['error_s']:.2f}" + (f" ({percent(each['share'])})" if each["error_s"] > 0.001 else "")
            for each in shown
        ]
        values = sum(each["values"] for each in own)
        within = sum(each["within"] * each["values"] for each in own) / values
        rows.append((metric, *cells, f"{values:,}", percent(within), "yes" if all(e["holds"] for e in own) else "no"))
    head = ("error, ms", *SHOWN, "single values", "of these within 1% or 1 ms", "mean and percentiles all within")
    return table(head, rows) + "\n" + measured(told).capitalize()


def server_profile(told: Mapping[str, Any]) -> str:
    """By load and metric what each tool tells, and in brackets what the server did meanwhile, where it knows."""
    rows = []
    for name, load in told["figures"]["loads"].items():
        tools = load["tools"]
        for metric in tools["cuecard"]["told"]:
            other = next((tool for tool in ("vllm", "guidellm") if metric in tools[tool]["told"]), None)
            if other is not None:
                cells = [_beside(tools[tool], metric) for tool in ("cuecard", other)]
                rows.append((name, metric, cells[0], other, cells[1]))
    versions = ", ".join(f"{tool} {version}" for tool, version in told["figures"]["versions"].items())
    said = f"{versions}; {measured(told)}"
    return table(("load", "metric", "`cuecard profile`", "the other", "tells"), rows) + "\n" + said


def _beside(tool: Mapping[str, Any], metric: str) -> str:
    def both(values: Mapping[str, float]) -> str:
        return " / ".join(f"{1000 * values[p]:,.2f}" for p in ("p50", "p99"))

    return both(tool["told"][metric]) + (f" ({both(tool['did'][metric])})" if "did" in tool else "")


SHOWN = ("mean", "p50", "p90", "p99")


def roofline() -> str:
    rows = [
        (
            roof.model,
            roof.component,
            milliseconds(roof.measured_s),
            milliseconds(roof.least_s),
            f"{roof.times:.1f}",
            roof.bound,
        )
        for roof in largest(measured_roofs(PROFILED))
    ]
    said = "Largest point: 1,024 visual of 1,410 prompt tokens, 128 output tokens; took is measured, least computed.\n"
    return table(("model", "component", "took, ms", "least, ms", "times", "bound by"), rows) + "\n" + said


FIGURES = {
    "figures held-out": held_out,
    "figures mock-fit": of("mock_fit", mock_fit),
    "figures break-even": break_even,
    "figures roofline": roofline,
    "figures server-truth": of("server_truth", server_truth),
    "figures server-mock": of("server_profile_mock", server_profile),
    "figures server-vllm": of("server_profile_vllm", server_profile),
    "figures estimates": of("estimates", estimates),
    "figures headline": of("evaluation", headline),
    "figures evaluation": of("evaluation", headline),
    "figures targets": of("evaluation", targets),
    "figures tasks": of("evaluation", tasks),
    "figures routes": of("evaluation", routes),
    "figures paired": of("evaluation", paired),
    "figures easy-vqa": of("evaluation", easy_vqa),
    "figures acceptance": of("validation", acceptance),
    "figures handoff": of("handoff", handoff),
    "figures overhead": of("overhead", overhead),
    "figures gateway": of("gateway", gateway),
    "figures soak": of("soak", soak),
    "figures warming": of("warming", warming),
    "figures handoff-servers": of("handoff_llamacpp", handoff_servers),
    "figures schedules": of("strategies", schedules),
}
