"""Make the embedded pair:  python -m training.train [demo-small] [demo-large] --out DIR

The phases are in `recipes`. Every step draws its data from (seed, model, phase, step), so a run that was killed goes
on from its last checkpoint as if nothing had happened.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from cuecard.demo import boards, tasks
from cuecard.demo.boards import CELLS, COLOURS, ORDINALS, landing
from cuecard.models.spec import Embedded
from training import checkpoint, scope
from training import data as training_data
from training import tokenizer as tk
from training.data import Row, Writer
from training.optimisation import Heads, Muon, first_head
from training.reasoning import STYLES
from training.recipes import REASONED, RECIPES, Phase

AttentionInput = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Hidden states (b, n, width), and the cosines and sines of the positions."""
BUNDLE = 16
STATION_WEIGHT = 0.3
LOOK_WEIGHT = 0.3
FILLER = 0.2
"""Weight of the tokens of a reasoning that decide nothing."""
CHECKPOINT_STEPS = 100
ALBUM = 20_000
CHAIN = 6


class Trainee:
    """One model in training: its weights, optimisers, phase and step."""

    def __init__(self, name: str, seed: int, out: Path) -> None:
        torch.manual_seed(seed)
        self.name, self.seed, self.recipe = name, seed, RECIPES[name]
        self.base = base_folder(out, self.recipe.grown_from) if self.recipe.grown_from else None
        self.tokenizer = AutoTokenizer.from_pretrained(self.base) if self.base else tk.build()
        self.writer = Writer(self.tokenizer)
        config = checkpoint.architecture(name, self.tokenizer)
        self.model = Qwen3VLForConditionalGeneration(config)
        self.model.set_attn_implementation("sdpa")
        self.heads = Heads(config.text_config.hidden_size)
        self.image_token = config.image_token_id
        self.letters = [self.writer.ids(letter)[0] for letter in "ABCD"]
        self.stop = self.writer.ids(".")[0]
        matrices = [p for n, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in n and "pos" not in n]
        chosen = {id(p) for p in matrices}
        rest = [p for p in (*self.model.parameters(), *self.heads.parameters()) if id(p) not in chosen]
        self.optimisers: list[tuple[torch.optim.Optimizer, float]] = [
            (
                Muon(matrices, lr=self.recipe.muon_rate),
                self.recipe.muon_rate,
            ),
            (
                torch.optim.AdamW(rest, lr=self.recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.01),
                self.recipe.adam_rate,
            ),
        ]

    # --- losses: each accumulates gradients and returns what it was ---------------------------------------------------

    def vision_loss(self, rng: Random) -> dict[str, float]:
        made = [boards.make_board(rng, "train") for _ in range(24)]
        scenes = tasks.scenes("train")
        paths = rng.sample(sorted(scenes), 12)
        pictures = np.stack([training_data.vqa_picture(p)[:, :: rng.choice((1, -1))] for p in paths])
        photos = torch.from_numpy(pictures)
        seen = self.see(torch.cat([training_data.lively(made, rng), photos]))[:, 0]
        tokens, images = seen[: len(made)].flatten(0, 1), seen[len(made) :].mean(1)
        cells = [cell for b in made for cell in b.cells]
        truth = {
            "digit": [digit for _, digit in cells],
            "colour": [COLOURS.index(colour) for colour, _ in cells],
            "cell": list(range(CELLS)) * len(made),
            "landing": [landing(i % CELLS, *cell) for i, cell in enumerate(cells)],
            "shape": [tasks.SHAPES.index(scenes[p][1]) for p in paths],
            "hue": [tasks.SHAPE_COLOURS.index(scenes[p][0]) for p in paths],
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

    @torch.no_grad()
    def digits_right(self, split: str) -> float:
        """Share of the digits on 100 boards of this split that the vision tower recognises."""
        rng = Random(f"{self.seed} {split} digits")
        made = [boards.make_board(rng, split) for _ in range(100)]
        seen = self.see(torch.from_numpy(np.stack([boards.draw(board) for board in made])))[:, 0]
        truth = torch.tensor([digit for board in made for _, digit in board.cells])
        return (self.heads.of["digit"](seen.flatten(0, 1)).argmax(-1) == truth).float().mean().item()

    def look_up_loss(self, rng: Random, phase: Phase, step: int) -> dict[str, float]:
        disorder = (step - 100) / (phase.steps * 0.4)
        rows = [training_data.look_up_row(rng, self.writer, self.album, disorder) for _ in range(phase.look_up_rows)]
        return self.learn("look-up", rows, filler=0)

    @cached_property
    def decisive(self) -> torch.Tensor:
        """Mask over the vocabulary: the tokens that a reasoning turns on."""
        words = [*COLOURS, "back", "down", "forward", "yes", "no", "it", "not", "larger", "smaller", "equal", *ORDINALS]
        words += [*tasks.SHAPE_COLOURS, *tasks.SHAPES, "color", "shape", "there", "in"]
        words += ["Now", "There", "Hence", "It", "We", "Of", "hence"]  # whether the large model's reasoning goes on
        words += ["One", "Two", "From"]  # and how it begins
        places = [f"cell {n + 1}" for n in range(CELLS)]
        ids = [self.writer.ids(f" {word}")[-1] for word in (*words, *places, *range(41), *"ABC")]
        mask = torch.zeros(len(self.tokenizer), dtype=torch.bool)
        mask[[*ids, *(self.writer.ids(f" {word} 1")[0] for word in words)]] = True
        return mask

    def modes_loss(self, rng: Random, phase: Phase) -> dict[str, float]:
        def drawn(mix: Mapping[str, int], count: int) -> list[training_data.Lesson]:
            """One picture, several questions about it."""
            if rng.random() < phase.photos:
                return self.album.photo_lessons(rng, count, phase.as_asked)
            return self.album.board_lessons(rng, rng.choices(list(mix), list(mix.values()), k=count))

        short = [self.writer.chain(drawn(phase.short_mix, CHAIN)) for _ in range(phase.chains)]
        reason = [
            training_data.reason_row(self.writer, drawn(phase.reason_mix, 1)[0]) for _ in range(phase.reason_rows)
        ]
        read = [
            training_data.read_row(rng, self.writer, drawn(REASONED, 1)[0], self.recipe.slips)
            for _ in range(phase.read_rows)
        ]
        drill = [training_data.drill_row(rng, self.writer, self.album, phase.drills) for _ in range(phase.drill_rows)]
        look_up = [training_data.look_up_row(rng, self.writer, self.album, 1) for _ in range(phase.look_up_rows)]
        return (
            self.learn("look-up", look_up, filler=0)
            | self.learn("drill", drill, filler=0)
            | self.learn("short", short)
            | self.learn("reason", reason, filler=FILLER)
            | self.learn("read", read)
        )

    @cached_property
    def album(self) -> training_data.Album:
        """Pictures as the vision tower sees them, which does not change any more."""
        self.model.model.visual.requires_grad_(False)
        with torch.no_grad():
            return training_data.Album(self.see, self.seed, ALBUM, STYLES[self.name])

    def see(self, pictures: torch.Tensor) -> torch.Tensor:
        """(n, 128, 128, 3) -> (n, 1 + d, 16, width): visual tokens, and d times what DeepStack adds to them later."""
        grid = torch.tensor([training_data.GRID] * len(pictures))
        out = self.model.model.visual(training_data.patches(pictures), grid)
        parts = [out.pooler_output, *out.deepstack_features]
        return torch.stack([part.reshape(len(pictures), training_data.VISUAL_TOKENS, -1) for part in parts], 1)

    def learn(self, name: str, rows: list[Row], filler: float = 1.0) -> dict[str, float]:
        """Accumulate the gradient of the mean loss over the learned tokens, and return that loss.

        `filler` is the weight of those that are not decisive. And of the mean loss over the stations, if there are any:
        which cell is reached after this many jumps.
        """
        if not rows:
            return {}
        batches = [self.batch(bundle, filler) for bundle in training_data.bundles(rows, BUNDLE)]
        tokens = sum(float(weight.sum()) for *_, weight in batches)
        stops = sum(len(row.stations) + len(row.scenes) for row in rows)
        total = reached = 0.0
        for bundle, inputs, weight in batches:
            final, layers, looks = self.forward(bundle, inputs)
            labels = self.label_loss(inputs, layers[0])
            mask = weight > 0
            each = F.cross_entropy(self.model.lm_head(final[:, :-1][mask]), inputs[:, 1:][mask], reduction="none")
            loss = (each * weight[mask]).sum()
            on_the_way = self.station_loss(bundle, layers) + self.scene_loss(bundle, layers)
            total, reached = total + loss.item() / tokens, reached + on_the_way.item() / max(1, stops)
            looked = LOOK_WEIGHT / STATION_WEIGHT * self.look_loss(bundle, inputs, looks)
            on_the_way = (on_the_way + looked) / max(1, stops) + labels / len(batches)
            (loss / tokens + STATION_WEIGHT * on_the_way).backward()
        return {name: total} | ({"stations": reached} if stops else {})

    def station_loss(self, rows: list[Row], layers: dict[int, torch.Tensor]) -> torch.Tensor:
        """Summed over the rows: at each station the cell after this many jumps, and what the cell before it shows."""
        total, stations = torch.zeros(()), self.recipe.stations
        stops = [(i, at, cells) for i, row in enumerate(rows) for at, cells in row.stations]
        for jumps, (layer, shown) in enumerate(pairwise(stations)):
            known = [(i, at, cells[jumps]) for i, at, cells in stops if len(cells) > jumps]
            total = total + self.asked("station", layers[layer], known)
            shows = [(i, at, self.album.boards[rows[i].picture].cells[cell]) for i, at, cell in known]
            digits = [(i, at, digit) for i, at, (_, digit) in shows]
            colours = [(i, at, COLOURS.index(colour)) for i, at, (colour, _) in shows]
            total = total + self.asked("shown digit", layers[shown], digits)
            total = total + self.asked("shown colour", layers[shown], colours)
        return total

    def look_loss(self, rows: list[Row], ids: torch.Tensor, inputs: dict[int, AttentionInput]) -> torch.Tensor:
        """Summed over the rows: at each station, the cross-entropy of the first head's attention against the cell that
        is reached there (supervised attention, Liu et al. 2016). `inputs` are those of the attention layers."""
        total, first = torch.zeros(()), ids[0].tolist().index(self.image_token)
        for jumps, (layer, given) in enumerate(sorted(inputs.items())):
            stops = [(i, at, cells) for i, row in enumerate(rows) for at, cells in row.stations]
            known = [(i, at, first + cells[jumps]) for i, at, cells in stops if len(cells) > jumps]
            if known:
                row, at, truth = torch.tensor(known).T
                scores = first_head(self.model.model.language_model.layers[layer].self_attn, *given, row, at)
                total = total + F.cross_entropy(scores, truth, reduction="sum")
        return total

    def scene_loss(self, rows: list[Row], layers: dict[int, torch.Tensor]) -> torch.Tensor:
        """Summed over the rows: what an image of easy-VQA shows, and later whether that is what is asked for."""
        seen, compared = layers[self.recipe.stations[1]], layers[self.recipe.stations[-1]]
        known = [(i, at, scene) for i, row in enumerate(rows) for at, scene in row.scenes]
        hues = [(i, at, tasks.SHAPE_COLOURS.index(scene.colour)) for i, at, scene in known]
        shapes = [(i, at, tasks.SHAPES.index(scene.shape)) for i, at, scene in known]
        there = [(i, at, int(scene.is_there)) for i, at, scene in known if scene.is_there is not None]
        return self.asked("hue", seen, hues) + self.asked("shape", seen, shapes) + self.asked("there", compared, there)

    def label_loss(self, ids: torch.Tensor, layer: torch.Tensor) -> torch.Tensor:
        """Of each option's first word (ids: (b, n)): which letter stands before it. A mean."""
        letters = torch.tensor(self.letters)
        is_label = (ids[:, :-2, None] == letters).any(-1) & (ids[:, 1:-1] == self.stop)
        row, at = is_label.nonzero().T
        if not len(row):
            return torch.zeros(())
        truth = (ids[row, at, None] == letters).int().argmax(-1)
        return F.cross_entropy(self.heads.of["label"](layer[row, at + 2]), truth)

    def asked(self, head: str, layer: torch.Tensor, known: list[tuple[int, int, int]]) -> torch.Tensor:
        """Cross-entropy, summed, of this head at (row, position) against what is known."""
        if not known:
            return torch.zeros(())
        row, at, truth = torch.tensor(known).T
        return F.cross_entropy(self.heads.of[head](layer[row, at]), truth, reduction="sum")

    def batch(self, rows: list[Row], filler: float = 1.0) -> tuple[list[Row], torch.Tensor, torch.Tensor]:
        """-> rows, ids (b, n), weights (b, n - 1) of the targets: 0 where nothing is learned."""
        longest = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        weight = torch.zeros(len(rows), longest - 1)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            for start, end in row.learned:
                weight[i, start - 1 : end - 1] = 1
        return rows, ids, torch.where(self.decisive[ids[:, 1:]], weight, weight * filler)

    def forward(
        self, rows: list[Row], ids: torch.Tensor
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor], dict[int, AttentionInput]]:
        """-> normed output of the last layer (b, n, width), that of each station's layer, and for each layer that is to
        look its attention's input and the cosines and sines of the positions."""
        language, layers = self.model.model.language_model, {}
        looks: dict[int, AttentionInput] = {}
        visual = ids == self.image_token
        seen = self.album.features[torch.tensor([row.picture for row in rows])].transpose(0, 1).flatten(1, 2)
        embedded = language.embed_tokens(ids).masked_scatter(visual[..., None], seen[0])
        positions = training_data.mrope_positions(rows[0].ids.index(self.image_token), ids.shape[1])

        def keep(index: int, *output: Any) -> None:
            layers[index] = output[-1]

        def keep_input(index: int, _: nn.Module, __: tuple[Any, ...], given: dict[str, Any]) -> None:
            looks[index] = (given["hidden_states"], *given["position_embeddings"])

        hooks = [language.layers[i].register_forward_hook(partial(keep, i)) for i in {0, *self.recipe.stations}]
        for i in self.recipe.looks:
            attention = language.layers[i].self_attn
            hooks.append(attention.register_forward_pre_hook(partial(keep_input, i), with_kwargs=True))
        final = language(
            inputs_embeds=embedded,
            position_ids=positions[:, None].expand(3, *ids.shape),
            visual_pos_masks=visual,
            deepstack_visual_embeds=list(seen[1:]),
            use_cache=False,
        ).last_hidden_state
        for hook in hooks:
            hook.remove()
        return final, layers, looks

    # --- steps --------------------------------------------------------------------------------------------------------

    def step(self, phase: Phase, step: int) -> dict[str, float]:
        """One step of a phase; everything random in it comes from (seed, model, phase, step)."""
        rng, rate = Random(f"{self.seed} {self.name} {phase.name} {step}"), rate_at(step, phase.steps, 50) * phase.peak
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

    def grow(self) -> None:
        """Begin as the smaller model, whose tokenizer is kept."""
        smaller = Qwen3VLForConditionalGeneration.from_pretrained(self.base, dtype=torch.float32)
        self.model.load_state_dict(checkpoint.grow(smaller.state_dict(), self.model))

    def restore(self, state: dict[str, Any]) -> tuple[str, int]:
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for (optimiser, _), saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        return state["phase"], state["step"]


def rate_at(step: int, steps: int, warm_up: int) -> float:
    """Share of the full learning rate: linear warm-up, then a cosine down to 3%."""
    return min(1.0, (step + 1) / warm_up) * (0.03 + 0.485 * (1 + math.cos(math.pi * step / steps)))


def base_folder(out: Path, name: str) -> Path:
    """Where the model is that another one grows from: under `out`, or in the package."""
    return out / name if (out / name / "config.json").exists() else Embedded(name).folder


def train(name: str, out: Path, seed: int, progress: Progress) -> None:
    """Train one model to the end, from its last checkpoint if there is one, and save it under `out`/name."""
    trainee, saved = Trainee(name, seed, out), out / f"{name}.checkpoint.pt"
    phases, begin, first = trainee.recipe.phases, trainee.recipe.phases[0].name, 0
    if saved.exists():
        begin, first = trainee.restore(torch.load(saved, weights_only=True))
    elif trainee.base:
        trainee.grow()
    for phase in phases[[phase.name for phase in phases].index(begin) :]:
        bar = progress.add_task(f"{name} {phase.name}", total=phase.steps, completed=first)
        smooth: dict[str, float] = {}
        begun = time.monotonic()
        for step in range(first, phase.steps):
            losses = trainee.step(phase, step)
            smooth = {k: v if k not in smooth else 0.95 * smooth[k] + 0.05 * v for k, v in losses.items()}
            summary = " ".join(f"{k} {v:.3f}" for k, v in smooth.items())
            progress.update(bar, advance=1, description=f"{name} {phase.name} {summary}")
            if (step + 1) % CHECKPOINT_STEPS == 0 or step + 1 == phase.steps:
                torch.save(trainee.state(phase.name, step + 1), saved.with_suffix(".part"))
                saved.with_suffix(".part").replace(saved)
                if not progress.console.is_terminal:
                    print(
                        f"{name} {phase.name} {step + 1}/{phase.steps} {time.monotonic() - begun:.0f} s: {summary}",
                        flush=True,
                    )
        first = 0
        if phase.name == "vision":
            progress.console.print(f"{name} recognises {trainee.digits_right('validation'):.2%} of unseen digits")
    checkpoint.save(trainee.model, trainee.tokenizer, out / name)
    scope.write(out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded pair; a killed run goes on where it was.")
    parser.add_argument("names", nargs="*", default=list(RECIPES), help="demo-small, demo-large, or both (the default)")
    parser.add_argument("--out", type=Path, default=Path("runs/pair"), help="where checkpoints and models go")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.names) - set(RECIPES):
        parser.error(f"unknown model {', '.join(sorted(unknown))}: choose from {', '.join(RECIPES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        for name in options.names:
            train(name, options.out, options.seed, progress)


if __name__ == "__main__":
    main()
