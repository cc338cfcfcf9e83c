"""Tables of the docs, generated from the committed benchmark results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cuecard.latency import breakeven
from cuecard.latency.latency_model import Fit, read_all
from cuecard.latency.roofline import roofs as measured_roofs
from cuecard.report import formatting
from cuecard.report.latency_report import largest
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


def interval(result: Mapping[str, float]) -> str:
    return f"{100 * result['low']:.1f} to {100 * result['high']:.1f}"


REGIMES = {
    "shapes": "easy-VQA test questions",
    "boards": "held-out boards",
    "long": "boards of 6 to 12 jumps",
    "changed": "boards with rotated digits in other hues",
}
"""Regime of the embedded pair's evaluation -> its description; regimes without results are omitted."""


def speed_ups(regime: Mapping[str, Any]) -> dict[str, float]:
    """Arm -> speed-up over the large model's reasoning."""
    slow = regime["arms"]["large_reason"]["mean_s"]
    return {key: slow / regime["arms"][key]["mean_s"] for key in ARMS}


def headline(result: Mapping[str, Any]) -> str:
    regimes = {name: result[name] for name in REGIMES if name in result and name != "changed"}
    ups = {name: speed_ups(regime) for name, regime in regimes.items()}
    rows = []
    for key, arm in ARMS.items():
        cells: list[str] = []
        for name, regime in regimes.items():
            own = regime["arms"][key]
            cells += [percent(own["accuracy"]), milliseconds(own["mean_s"]), f"{ups[name][key]:.2f}×"]
        rows.append((arm, *cells))
    head = ["", *(text for name in regimes for text in (f"{name}: right", "ms", "speed-up"))]
    asked = ", ".join(f"{regime['questions']:,} {REGIMES[name]}" for name, regime in regimes.items())
    return table(head, rows) + f"\n{asked}; {measured(regimes['boards'])}"


def regimes(result: Mapping[str, Any]) -> str:
    """Tables of all arms, one per regime."""
    return "\n".join(_regime(name, result[name]) for name in REGIMES if name in result)


def _regime(name: str, regime: Mapping[str, Any]) -> str:
    ups, rows = speed_ups(regime), []
    for key, arm in ARMS.items():
        own = regime["arms"][key]
        cells = (interval(own), milliseconds(own["mean_s"]), f"{own['mean_tokens']:.1f}", f"{ups[key]:.2f}×")
        rows.append((arm, percent(own["accuracy"]), *cells))
    head = ("", "right", "95% interval", "mean ms", "tokens generated", "speed-up")
    settled = f"{percent(regime['accepted'] / regime['questions'])} of `mutual` settled without reasoning"
    wrong = f"{percent(regime['accepted_wrong'] / max(1, regime['accepted']))} of these wrong"
    title = f"**{regime['questions']:,} {REGIMES[name]}**"
    return f"{title}\n\n{table(head, rows)}\n{settled}, {wrong}; {measured(regime)}"


def measured(result: Mapping[str, Any]) -> str:
    on = result["machine"]
    threads = f", {on['torch_threads']} threads" if on["torch_threads"] else ""
    where = on["accelerator"] or f"{on['cores']} cores of {on['processor']}{threads}"
    return f"measured on {on['date']}, {where}.\n"


def tasks(result: Mapping[str, Any]) -> str:
    rows = [
        (
            task,
            part["questions"],
            *(percent(part["arms"][arm]["accuracy"]) for arm in ARMS),
            part["accepted"],
            part["accepted_wrong"],
            f"{part['speed_up']:.2f}×",
        )
        for task, part in result["boards"]["kinds"].items()
    ]
    arms = ("short S", "short L", "reason S", "reason L", "transfer", "mutual", "agree")
    legend = "S is the small model, L the large one; accepted, wrong and speed-up are those of `mutual`.\n"
    return table(("task", "questions", *arms, "accepted", "wrong", "speed-up"), rows) + "\n" + legend


def routes(result: Mapping[str, Any]) -> str:
    counts = {name: result[name]["routes"] for name in REGIMES if name in result}
    known = dict.fromkeys(route for found in counts.values() for route in found)
    rows = [
        (route, *(percent(found.get(route, 0) / sum(found.values())) for found in counts.values())) for route in known
    ]
    return table(("route", *counts), rows)


def paired(result: Mapping[str, Any]) -> str:
    rows = [
        (regime, name, f"{100 * d['difference']:+.1f}", interval(d), d["better"], d["worse"], f"{d['p']:.2g}")
        for regime in REGIMES
        if regime in result
        for name, d in result[regime]["paired"].items()
    ]
    return table(("questions", "difference", "points", "95% interval", "better on", "worse on", "p"), rows)


def acceptance(result: Mapping[str, Any]) -> str:
    rows = [
        (
            f"`{rule}`",
            *(
                text
                for regime in result.values()
                for d in [regime["acceptance"][rule]]
                for text in (
                    percent(d["accepted"] / regime["questions"]),
                    percent(d["wrong"] / d["accepted"]) if d["accepted"] else "-",
                    percent(d["accuracy"]),
                )
            ),
        )
        for rule in next(iter(result.values()))["acceptance"]
    ]
    head = ["rule", *(text for name in result for text in (f"{name}: accepted", "of these wrong", "`mutual` right"))]
    counts = ", ".join(f"{regime['questions']:,} of {regime['task']}" for regime in result.values())
    return table(head, rows) + f"\n{counts}; {measured(next(iter(result.values())))}"


def targets(result: Mapping[str, Any]) -> str:
    """Targets of the pair: questions, metric, minimum, measured value, and whether the target is met."""

    def right(arm: str) -> Callable[[Mapping[str, Any]], float]:
        return lambda regime: float(regime["arms"][arm]["accuracy"])

    def ahead(pair: str) -> Callable[[Mapping[str, Any]], float]:
        return lambda regime: float(regime["paired"][pair]["difference"])

    def faster(arm: str) -> Callable[[Mapping[str, Any]], float]:
        return lambda regime: speed_ups(regime)[arm]

    def settled(regime: Mapping[str, Any]) -> float:
        return float(regime["accepted"] / regime["questions"])

    def sound(regime: Mapping[str, Any]) -> float:
        return 1 - float(regime["accepted_wrong"] / max(1, regime["accepted"]))

    def points(share: float) -> str:
        return f"{100 * share:+.1f} points"

    def times(ratio: float) -> str:
        return f"{ratio:.1f}×"

    wanted: list[tuple[str, str, float, Callable[[float], str], Callable[[Mapping[str, Any]], float]]] = [
        ("shapes", "large, short", 0.99, percent, right("large_short")),
        ("shapes", "large, reasoning", 0.98, percent, right("large_reason")),
        ("shapes", "small, reasoning", 0.97, percent, right("small_reason")),
        ("shapes", "`mutual` against large, short", -0.005, points, ahead("mutual - large_short")),
        ("shapes", "settled without reasoning", 0.85, percent, settled),
        ("shapes", "`mutual`, faster than large, reasoning", 8, times, faster("mutual")),
        ("boards", "large, reasoning", 0.99, percent, right("large_reason")),
        ("boards", "`mutual` against large, reasoning", -0.01, points, ahead("mutual - large_reason")),
        ("boards", "right of what is settled without reasoning", 0.98, percent, sound),
        ("boards", "`mutual`, faster than large, reasoning", 2.5, times, faster("mutual")),
        ("long", "`transfer`, faster than large, reasoning", 2.2, times, faster("transfer")),
        ("long", "`transfer` against small, reasoning", 0, points, ahead("transfer - small_reason")),
        ("changed", "large, reasoning", 0.98, percent, right("large_reason")),
    ]
    rows = []
    for name, what, least, shown, find in wanted:
        if name in result:
            found = find(result[name])
            rows.append((name, what, shown(least), shown(found), "yes" if found >= least else "no"))
    return table(("questions", "what", "at least", "measured", "met"), rows)


HANDOFF_ARMS = {"streamed": "read while written", "last piece alone": "its last piece alone", "whole": "read at once"}


def handoff(result: Mapping[str, Any]) -> str:
    rows = result["figures"]["rows"]
    arms = {arm: name for arm, name in HANDOFF_ARMS.items() if any(row["arm"] == arm for row in rows)}
    cells = sorted({(row["reasoning_tokens"], row["visual_tokens"]) for row in rows})
    median = {(row["arm"], row["reasoning_tokens"], row["visual_tokens"]): row["median_s"] for row in rows}
    lines = [(tokens, visual, *(milliseconds(median[arm, tokens, visual]) for arm in arms)) for tokens, visual in cells]
    head = ("reasoning tokens", "visual tokens", *(f"{name}, ms" for name in arms.values()))
    ratios = result["figures"]["ratios"]
    ends = "".join(
        f"From end to end, {name}: {ratios['streamed'][name]:.2f}× read while written, "
        f"{ratios['whole'][name]:.2f}× read at once.\n"
        for name in ratios["streamed"]
    )
    return f"{table(head, lines)}\n{ends}Medians; {measured(result)}"


def schedules(result: Mapping[str, Any]) -> str:
    figures = result["figures"]
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
    return table(head, rows) + "\n" + measured(figures | {"machine": result["machine"]})


def overhead(result: Mapping[str, Any]) -> str:
    rows = [
        (name, f"{f['idle_ms_median']:.2f}", percent(f["share_of_total"]), f["prompt_tokens_computed_twice"])
        for name, f in result["figures"].items()
    ]
    head = ("schedule", "median ms without any call", "share of the time", "prompt tokens computed twice")
    return table(head, rows) + "\n" + measured(result)


def gateway(result: Mapping[str, Any]) -> str:
    figures = result["figures"]
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
    return f"{table(head, rows)}\n{crowd(figures['streaming'])}{measured(result)}"


def crowd(many: Mapping[str, Any]) -> str:
    return (
        f"{many['clients']} streaming clients for {many['seconds']:.0f} s: {many['requests']:,} requests, "
        f"{many['errors']} errors, {many['usage_tokens'] - many['upstream_tokens']} tokens miscounted;\n"
        f"memory {many['resident_mib']['after_a_sixth']:.0f} MiB after a sixth of it, "
        f"{many['resident_mib']['at_the_end']:.0f} MiB at the end.\n"
    )


def soak(result: Mapping[str, Any]) -> str:
    return crowd(result["figures"]["soak"]) + measured(result)


def warming(result: Mapping[str, Any]) -> str:
    rows = [
        (
            way,
            milliseconds(f["first_reasoning_token_s"]),
            milliseconds(f["handoff_s"]),
            " to ".join(map(milliseconds, f["handoff_quartiles_s"])),
            f"{f['cached_tokens_of_reader']:.0f} of {f['prompt_tokens_of_reader']:.0f}",
        )
        for way, f in result["figures"].items()
    ]
    head = ("", "first reasoning token, ms", "hand-off, ms", "its quartiles, ms", "prompt tokens of the reader cached")
    return table(head, rows) + "\n" + measured(result)


def handoff_servers(result: Mapping[str, Any]) -> str:
    figures = {way: found for way, found in result["figures"].items() if way != "ratio"}
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
    return f"{table(head, rows)}\nWarmed / not warmed: {result['figures']['ratio']:.2f}; {measured(result)}"


def handoff_vllm(result: Mapping[str, Any]) -> str:
    figures = result["figures"]
    ways = [name for name in figures["rows"][0] if not name.endswith("_tokens")]
    lines = [
        (row["card_tokens"], row["visual_tokens"], *(milliseconds(row[way]["handoff_s"]) for way in ways))
        for row in figures["rows"]
    ]
    head = ("card, tokens", "visual tokens", *(f"{way}, ms" for way in ways))
    ends = "".join(
        f"Longest / shortest {what}: " + ", ".join(f"{ratio:.2f}× {way}" for way, ratio in ratios.items()) + ".\n"
        for what, ratios in figures["ratios"].items()
    )
    return f"{table(head, lines)}\n{ends}Medians; {measured(result)}"


def of(name: str, draw: Callable[[Mapping[str, Any]], str]) -> Callable[[], str]:
    """A function that draws the table of one result file."""

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


def mock_fit(result: Mapping[str, Any]) -> str:
    figures = result["figures"]
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
    return table(head, rows) + f"\nFound: {found}.\nThe fit's readings were {measured(result)}"


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
    note = f"{rates};\nestimated, 95% intervals of {pair.draws} draws; beyond 128 tokens extrapolated.\n"
    return table((f"{pair.large} writes", f"{pair.small} alone", *heads), rows) + "\n" + note


def estimates(result: Mapping[str, Any]) -> str:
    rows = [
        (f"`{row['strategy']}`", row["schedule"], milliseconds(row["measured_s"]), f"{row['times_the_estimate']:.2f}")
        for row in result["figures"]["arms"]
    ]
    figures = result["figures"]
    note = measured({**result, "boards": figures["boards"], "seed": figures["seed"]})
    return table(("strategy", "schedule", "measured, ms", "times the estimate"), rows) + "\n" + note


def server_truth(result: Mapping[str, Any]) -> str:
    """Metric -> its largest error over all loads."""
    loads = result["figures"]["loads"].values()
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
    return table(head, rows) + "\n" + measured(result).capitalize()


def server_profile(result: Mapping[str, Any]) -> str:
    """Each tool's report by load and metric, with the server's own measurement in brackets if available."""
    rows = []
    for name, load in result["figures"]["loads"].items():
        tools = load["tools"]
        for metric in tools["cuecard"]["reported"]:
            other = next((tool for tool in ("vllm", "guidellm") if metric in tools[tool]["reported"]), None)
            if other is not None:
                cells = [_beside(tools[tool], metric) for tool in ("cuecard", other)]
                rows.append((name, metric, cells[0], other, cells[1]))
    versions = ", ".join(f"{tool} {version}" for tool, version in result["figures"]["versions"].items())
    note = f"{versions}; {measured(result)}"
    return table(("load", "metric", "`cuecard profile`", "the other", "reports"), rows) + "\n" + note


def _beside(tool: Mapping[str, Any], metric: str) -> str:
    def both(values: Mapping[str, float]) -> str:
        return " / ".join(f"{1000 * values[p]:,.2f}" for p in ("p50", "p99"))

    return both(tool["reported"][metric]) + (f" ({both(tool['did'][metric])})" if "did" in tool else "")


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
    note = "Largest point: 1,024 visual of 1,410 prompt tokens, 128 output tokens; took is measured, least computed.\n"
    return table(("model", "component", "took, ms", "least, ms", "times", "bound by"), rows) + "\n" + note


def pair_roofline(result: Mapping[str, Any]) -> str:
    parts = [(row, part, row[part]) for row in result["figures"]["rows"] for part in ("prefill", "step")]
    rows = [
        (f"`{row['model']}`", part, milliseconds(own["took_s"]), milliseconds(own["least_s"]), f"{own['times']:.1f}")
        for row, part, own in parts
    ]
    tokens = result["figures"]["rows"][0]["prompt_tokens"]
    note = f"A prompt of {tokens} tokens with its image, and one decode step behind it; {measured(result)}"
    return table(("model", "component", "took, ms", "least, ms", "times"), rows) + "\n" + note


def scope(result: Mapping[str, Any]) -> str:
    found = result["figures"]

    def shares(of: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
        return f"{sum(each['pictures'] for each in of):,}", ", ".join(percent(each["share"]) for each in of)

    rows = [(name, *shares([each])) for name, each in found["usual"].items()]
    rows += [(f"{name}, 128×128 and 64×64", *shares(list(sizes.values()))) for name, sizes in found["foreign"].items()]
    costs = found["costs"]
    took = f"{costs['compare_ms']:.2f} ms of the {costs['prompt_ms']:.1f} ms in which its prompt is computed"
    note = f"\n`{found['model']}`; comparing an image takes {took}; {measured(result)}"
    return table(("pictures", "n", "flagged"), rows) + note


FIGURES = {
    "figures held-out": held_out,
    "figures mock-fit": of("mock_fit", mock_fit),
    "figures break-even": break_even,
    "figures roofline": roofline,
    "figures pair-roofline": of("roofline", pair_roofline),
    "figures server-truth": of("server_truth", server_truth),
    "figures server-mock": of("server_profile_mock", server_profile),
    "figures server-vllm": of("server_profile_vllm", server_profile),
    "figures estimates": of("estimates", estimates),
    "figures headline": of("evaluation", headline),
    "figures regimes": of("evaluation", regimes),
    "figures targets": of("evaluation", targets),
    "figures tasks": of("evaluation", tasks),
    "figures routes": of("evaluation", routes),
    "figures paired": of("evaluation", paired),
    "figures acceptance": of("validation", acceptance),
    "figures handoff": of("handoff", handoff),
    "figures overhead": of("overhead", overhead),
    "figures gateway": of("gateway", gateway),
    "figures soak": of("soak", soak),
    "figures warming": of("warming", warming),
    "figures handoff-servers": of("handoff_llamacpp", handoff_servers),
    "figures handoff-vllm": of("handoff_vllm", handoff_vllm),
    "figures scope": of("scope", scope),
    "figures schedules": of("strategies", schedules),
}
