"""Make the embedded pair:  python -m cuecard.demo.train [demo-small] [demo-large] --out DIR

Phases of the small model: *vision* alone (which digit, colour and cell each visual token shows), *look-up* (tell the
cells of a board in the words of the reasoning), *reason* (mostly reasoning) and *both* (short answers, reasoning, and
reading cards). The large model begins as the small one, deeper by layers that are silent at first, and has a phase
*both* of its own. Every step draws its data from (seed, model, phase, step), so a run that was killed goes on from its
last checkpoint as if nothing had happened.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from cuecard.demo import boards, checkpoint, easyvqa, lessons
from cuecard.demo import tokenizer as tk
from cuecard.demo.lessons import Row, Writer

BUNDLE = 16
CHECKPOINT_STEPS = 100


# What the last phases ask about. Answering jumps at once is learned hop by hop, so few hops come more often than many.
GLANCE = {
    "look-up": 4,
    "compare": 4,
    "count": 4,
    "sum": 4,
    "jump-1": 2,
    "jump-2": 1,
    "jump-3": 1,
    "jump-4": 1,
    "jump-5": 1,
}
DEEPER = {
    "look-up": 3,
    "compare": 3,
    "count": 3,
    "sum": 3,
    "jump-1": 6,
    "jump-2": 4,
    "jump-3": 2,
    "jump-4": 1,
    "jump-5": 1,
}
REASONED = {
    "look-up": 1,
    "compare": 1,
    "count": 2,
    "sum": 2,
    "jump-1": 1,
    "jump-2": 2,
    "jump-3": 2,
    "jump-4": 2,
    "jump-5": 3,
}
EASY_VQA_SHARE = 0.1
CHAIN = 6


@dataclass(frozen=True)
class Phase:
    """Steps of one sort, and how many rows of each kind a step holds."""

    name: str
    steps: int
    look_up_rows: int = 0
    chains: int = 0
    """Rows of six questions answered at once."""
    reason_rows: int = 0
    read_rows: int = 0


@dataclass(frozen=True)
class Recipe:
    """The phases of one model, what it learns to answer at once, and how often the cards it reads have a slip."""

    phases: tuple[Phase, ...]
    short_mix: dict[str, int]
    slips: float  # teaches to check a card against the image
    adam_rate: float = 2e-3
    muon_rate: float = 0.02
    grown_from: str | None = None
    """The model whose weights it begins with, its layers spread out among new ones that are silent at first."""


RECIPES = {
    "demo-small": Recipe(
        (
            Phase("vision", 1500),
            Phase("look-up", 500, look_up_rows=40),
            Phase("reason", 1400, chains=2, reason_rows=20, read_rows=4),
            Phase("both", 1700, chains=6, reason_rows=9, read_rows=2),
        ),
        GLANCE,
        slips=0.1,
    ),
    "demo-large": Recipe(
        (Phase("both", 1500, chains=6, reason_rows=8, read_rows=3),),
        DEEPER,
        slips=0.35,
        adam_rate=1e-3,
        muon_rate=0.012,
        grown_from="demo-small",
    ),
}


class Heads(nn.Module):
    """What vision is asked: of visual tokens digit, colour, cell and where a jump leads; of images shape and hue."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = {"digit": 10, "colour": 3, "cell": 16, "landing": 16, "shape": 3, "hue": 8}
        self.of = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})


class Trainee:
    """One model in training: its weights, optimisers, phase and step."""

    def __init__(self, name: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.name, self.seed, self.recipe = name, seed, RECIPES[name]
        self.tokenizer = tk.build()
        self.writer = Writer(self.tokenizer)
        config = checkpoint.architecture(name, self.tokenizer)
        self.model = Qwen3VLForConditionalGeneration(config)
        self.model.set_attn_implementation("sdpa")
        self.heads = Heads(config.text_config.hidden_size)
        self.image_token = config.image_token_id
        matrices = [p for n, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in n and "pos" not in n]
        chosen = {id(p) for p in matrices}
        rest = [p for p in (*self.model.parameters(), *self.heads.parameters()) if id(p) not in chosen]
        self.optimisers: list[tuple[torch.optim.Optimizer, float]] = [
            (
                torch.optim.Muon(matrices, lr=self.recipe.muon_rate, momentum=0.95, weight_decay=0.01),
                self.recipe.muon_rate,
            ),
            (
                torch.optim.AdamW(rest, lr=self.recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
                self.recipe.adam_rate,
            ),
        ]

    # --- losses: each accumulates gradients and returns what it was ---------------------------------------------------

    def vision_loss(self, rng: Random) -> dict[str, float]:
        made = [boards.make_board(rng, "train") for _ in range(32)]
        scenes = easyvqa.scenes("train")
        paths = rng.sample(sorted(scenes), 16)
        pictures = [boards.draw(b, lessons.lively(rng)) for b in made] + [lessons.vqa_picture(p) for p in paths]
        seen = self.see(pictures)
        tokens, images = seen[:32].flatten(0, 1), seen[32:].mean(1)
        cells = [cell for b in made for cell in b.cells]
        truth = {
            "digit": [digit for _, digit in cells],
            "colour": [boards.COLOURS.index(colour) for colour, _ in cells],
            "cell": list(range(16)) * 32,
            "landing": [boards.landing(i % 16, *cell) for i, cell in enumerate(cells)],
            "shape": [easyvqa.SHAPES.index(scenes[p][1]) for p in paths],
            "hue": [easyvqa.COLOURS.index(scenes[p][0]) for p in paths],
        }
        losses = {
            name: F.cross_entropy(
                self.heads.of[name](images if name in ("shape", "hue") else tokens), torch.tensor(target)
            )
            for name, target in truth.items()
        }
        weights = {"cell": 0.3, "landing": 0.3}
        torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum().backward()
        return {name: loss.item() for name, loss in losses.items()}

    def look_up_loss(self, rng: Random, phase: Phase, step: int) -> dict[str, float]:
        disorder = (step - 100) / (phase.steps * 0.4)
        rows = [lessons.look_up_row(rng, self.writer, disorder) for _ in range(phase.look_up_rows)]
        words = [f" {w}" for w in (*boards.COLOURS, *range(10))]
        wanted = torch.zeros(len(self.tokenizer), dtype=torch.bool)
        wanted[torch.tensor([self.tokenizer.convert_tokens_to_ids(self.tokenizer.tokenize(w)[0]) for w in words])] = (
            True
        )
        return {"look-up": self.learn(rows, wanted)}

    def modes_loss(self, rng: Random, phase: Phase) -> dict[str, float]:
        def drawn(mix: dict[str, int], count: int) -> list[lessons.Lesson]:
            """One picture, several questions; about easy-VQA's pictures one."""
            if rng.random() < EASY_VQA_SHARE:
                return [lessons.vqa_lesson(rng)]
            return lessons.board_lessons(rng, rng.choices(list(mix), list(mix.values()), k=count))

        short = [self.writer.chain(drawn(self.recipe.short_mix, CHAIN)) for _ in range(phase.chains)]
        reason = [lessons.reason_row(self.writer, drawn(REASONED, 1)[0]) for _ in range(phase.reason_rows)]
        read = [
            lessons.read_row(rng, self.writer, drawn(REASONED, 1)[0], self.recipe.slips) for _ in range(phase.read_rows)
        ]
        return {"short": self.learn(short), "reason": self.learn(reason), "read": self.learn(read)}

    def see(self, pictures: list) -> torch.Tensor:
        """n pictures -> (n, 16, width): the visual tokens that enter the language model."""
        grid = torch.tensor([lessons.GRID] * len(pictures))
        out = self.model.model.visual(lessons.patches(pictures), grid).pooler_output
        out = torch.cat(list(out)) if isinstance(out, (list, tuple)) else out
        return out.reshape(len(pictures), lessons.VISUAL_TOKENS, -1)

    def learn(self, rows: list[Row], wanted: torch.Tensor | None = None) -> float:
        """Accumulate the gradient of the mean loss over the learned tokens (only `wanted` ones); return that loss."""
        batches = [self.batch(bundle, wanted) for bundle in lessons.bundles(rows, BUNDLE)]
        tokens, total = sum(int(mask.sum()) for *_, mask in batches), 0.0
        for bundle, inputs, mask in batches:
            logits = self.forward(bundle, inputs)
            loss = F.cross_entropy(logits[:, :-1][mask], inputs[:, 1:][mask], reduction="sum") / tokens
            loss.backward()
            total += loss.item()
        return total

    def batch(self, rows: list[Row], wanted: torch.Tensor | None) -> tuple[list[Row], torch.Tensor, torch.Tensor]:
        """-> rows, ids (b, n), mask (b, n - 1) of the targets that are learned."""
        longest = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest - 1, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            for start, end in row.learned:
                mask[i, start - 1 : end - 1] = True
        return rows, ids, mask if wanted is None else mask & wanted[ids[:, 1:]]

    def forward(self, rows: list[Row], ids: torch.Tensor) -> torch.Tensor:
        positions = lessons.mrope_positions(rows[0].ids.index(self.image_token), ids.shape[1])
        return self.model(
            input_ids=ids,
            pixel_values=lessons.patches([row.picture for row in rows]),
            image_grid_thw=torch.tensor([lessons.GRID] * len(rows)),
            position_ids=positions[:, None].expand(3, *ids.shape),
            mm_token_type_ids=(ids == self.image_token).int(),
            use_cache=False,
        ).logits

    # --- steps --------------------------------------------------------------------------------------------------------

    def step(self, phase: Phase, step: int) -> dict[str, float]:
        """One step of a phase; everything random in it comes from (seed, model, phase, step)."""
        rng, rate = Random(f"{self.seed} {self.name} {phase.name} {step}"), rate_at(step, phase.steps, 50)
        for optimiser, full in self.optimisers:
            optimiser.zero_grad()
            for group in optimiser.param_groups:
                group["lr"] = full * rate
        match phase.name:
            case "vision":
                losses = self.vision_loss(rng)
            case "look-up":
                losses = self.look_up_loss(rng, phase, step)
            case _:
                losses = self.modes_loss(rng, phase)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser, _ in self.optimisers:
            optimiser.step()
        return losses

    def state(self, phase: str, step: int) -> dict:
        return {
            "phase": phase,
            "step": step,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser, _ in self.optimisers],
        }

    def grow(self, state: dict[str, Any]) -> None:
        """Begin as the smaller model whose state this is."""
        self.model.load_state_dict(checkpoint.grow(state["model"], self.model))
        self.heads.load_state_dict(state["heads"])

    def restore(self, state: dict[str, Any]) -> tuple[str, int]:
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for (optimiser, _), saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        return state["phase"], state["step"]


def rate_at(step: int, steps: int, warm_up: int) -> float:
    """Share of the full learning rate: linear warm-up, then a cosine down to 3%."""
    return min(1.0, (step + 1) / warm_up) * (0.03 + 0.485 * (1 + math.cos(math.pi * step / steps)))


def train(name: str, out: Path, seed: int, progress: Progress) -> None:
    """Train one model to the end, from its last checkpoint if there is one, and save it under `out`/name."""
    trainee, saved = Trainee(name, seed), out / f"{name}.checkpoint.pt"
    phases, begin, first = trainee.recipe.phases, trainee.recipe.phases[0].name, 0
    if saved.exists():
        begin, first = trainee.restore(torch.load(saved, weights_only=True))
    elif trainee.recipe.grown_from:
        trainee.grow(torch.load(out / f"{trainee.recipe.grown_from}.checkpoint.pt", weights_only=True))
    for phase in phases[[phase.name for phase in phases].index(begin) :]:
        bar = progress.add_task(f"{name} {phase.name}", total=phase.steps, completed=first)
        smooth: dict[str, float] = {}
        begun = time.monotonic()
        for step in range(first, phase.steps):
            losses = trainee.step(phase, step)
            smooth = {k: v if k not in smooth else 0.95 * smooth[k] + 0.05 * v for k, v in losses.items()}
            told = " ".join(f"{k} {v:.3f}" for k, v in smooth.items())
            progress.update(bar, advance=1, description=f"{name} {phase.name} {told}")
            if (step + 1) % CHECKPOINT_STEPS == 0 or step + 1 == phase.steps:
                torch.save(trainee.state(phase.name, step + 1), saved.with_suffix(".part"))
                saved.with_suffix(".part").replace(saved)
                if not progress.console.is_terminal:
                    print(
                        f"{name} {phase.name} {step + 1}/{phase.steps} {time.monotonic() - begun:.0f} s: {told}",
                        flush=True,
                    )
        first = 0
    checkpoint.save(trainee.model, trainee.tokenizer, out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded pair; a killed run goes on where it was.")
    parser.add_argument("names", nargs="*", default=list(RECIPES), help="demo-small, demo-large, or both (the default)")
    parser.add_argument("--out", type=Path, default=Path("runs/pair"), help="where checkpoints and models go")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.names) - set(RECIPES):
        parser.error(f"unknown model {', '.join(sorted(unknown))}: choose from {', '.join(RECIPES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        base = RECIPES[name].grown_from
        if base and base not in options.names and not (options.out / f"{base}.checkpoint.pt").exists():
            parser.error(f"{name} grows from {base}: train {base} first, or both together")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        for name in options.names:
            train(name, options.out, options.seed, progress)


if __name__ == "__main__":
    main()
