"""Fine-tune every weight of an encoder on weak labels; the best moment on validation is kept.

A killed run goes on from its last checkpoint and ends with the very weights of an undisturbed one
(on a CPU, with the same number of threads): the order of batches and each step's dropout follow
from the seed and the step's number alone, and everything else is in the checkpoint.
"""

import json
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from labeling.artifacts import sha256_json, write_json
from labeling.events import Event, Metric, Progress
from labeling.examples import IGNORED, LabelledWindow, TrainConfig, Validation
from labeling.predict import LoadedClassifier, autocast, padded

Judge = Callable[[LoadedClassifier], Validation]


def finetune(
    classifier: LoadedClassifier, windows: Sequence[LabelledWindow], judge: Judge, config: TrainConfig, work: Path
) -> Generator[Event, None, tuple[LoadedClassifier, int]]:
    """Returns the classifier with its best weights, and the step they are from."""
    model = classifier.model
    lengths = [len(w) for w in windows]
    plan = [batch for epoch in range(config.epochs) for batch in epoch_batches(lengths, config, epoch)]
    tokens = np.cumsum([sum(lengths[i] for i in batch) for batch in plan])
    steps, total = len(plan), int(tokens[-1])
    every = max(1, steps // (config.epochs * config.validations))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
    optimizer = _optimizer(model, config)
    run = Checkpoints(work, sha256_json([_identity(config), _digest(windows)]))
    best, step = run.restore(model, optimizer)
    class_weights = _class_weights(windows).to(model.device) if config.balance else None
    yield Progress(int(tokens[step - 1]) if step else 0, total, "tokens", "train")
    try:
        while step < steps:
            batch = [windows[i] for i in plan[step]]
            for group in optimizer.param_groups:
                group["lr"] = config.lr * rate(step, steps, config.warmup)
            with torch.random.fork_rng():
                torch.manual_seed(config.seed * 1_000_003 + step)
                loss = _update(classifier, batch, optimizer, class_weights)
            step += 1
            yield Progress(int(tokens[step - 1]), total, "tokens", "train")
            if step % 10 == 0 or step == steps:
                yield Metric("loss", loss, step)
            if step == steps or (step % every == 0 and steps - step >= every // 2):
                model.eval()
                found = judge(classifier)
                yield Metric("validation_f1", found.f1, step)
                if best is None or found.f1 > best["f1"]:
                    best = {"f1": found.f1, "step": step}
                    run.save_best(model, step)
            if step % config.checkpoint_every == 0 or step == steps:
                run.save(model, optimizer, step, best)
    finally:
        model.eval()
    assert best is not None, steps
    run.load_best(model, best["step"])
    return classifier, best["step"]


def _identity(config: TrainConfig) -> dict[str, Any]:
    """What decides the weights: all but how often they are saved."""
    return {name: value for name, value in asdict(config).items() if name != "checkpoint_every"}


def _update(
    classifier: LoadedClassifier,
    batch: Sequence[LabelledWindow],
    optimizer: torch.optim.Optimizer,
    class_weights: Tensor | None,
) -> float:
    model = classifier.model.train()
    ids, mask = padded(classifier, [w.ids for w in batch])
    labels = torch.full(ids.shape, IGNORED)
    skip = len(classifier.prefix)
    for row, window in enumerate(batch):
        labels[row, skip : skip + len(window)] = torch.from_numpy(window.labels)
    with autocast(model):
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
    flat = logits.float().flatten(0, 1)
    loss = nn.functional.cross_entropy(
        flat, labels.flatten().to(model.device), weight=class_weights, ignore_index=IGNORED
    )
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step (from 0): linear up, then linear down to zero."""
    rise = max(1, round(steps * warmup))
    return (step + 1) / rise if step < rise else (steps - step) / max(1, steps - rise)


def epoch_batches(lengths: Sequence[int], config: TrainConfig, epoch: int) -> list[list[int]]:
    """Window numbers per batch: shuffled, yet of like length, so that little of a batch is padding."""
    rng = np.random.default_rng([config.seed, epoch])
    order = rng.permutation(len(lengths)).tolist()
    batches: list[list[int]] = []
    pool = max(1, 32 * config.batch_tokens // config.window)
    for begin in range(0, len(order), pool):
        batch: list[int] = []
        for i in sorted(order[begin : begin + pool], key=lambda i: (-lengths[i], i)):
            if batch and lengths[batch[0]] * (len(batch) + 1) > config.batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(i)
        batches.append(batch)
    return [batches[i] for i in rng.permutation(len(batches))]


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Weight decay on matrices only; norms and biases keep their scale."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def _class_weights(windows: Sequence[LabelledWindow]) -> Tensor:
    counts = np.bincount(np.concatenate([w.labels[w.labels != IGNORED] for w in windows]), minlength=2)
    return torch.tensor(counts.sum() / (2 * counts), dtype=torch.float32)


def _digest(windows: Sequence[LabelledWindow]) -> str:
    import hashlib

    digest = hashlib.sha256()
    for window in windows:
        digest.update(window.ids.tobytes())
        digest.update(window.labels.tobytes())
    return digest.hexdigest()


class Checkpoints:
    """Weights and optimizer as safetensors, counters as JSON, written last: it names the tensors' files."""

    def __init__(self, folder: Path, digest: str):
        self.folder, self.digest = folder, digest
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, best: dict[str, Any] | None) -> None:
        tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{key}": value for key, value in state.items()}
        save_file({name: t.contiguous() for name, t in tensors.items()}, self.folder / f"step-{step}.safetensors")
        write_json(self.folder / "state.json", {"digest": self.digest, "step": step, "best": best})
        kept = {f"step-{step}", f"best-{best['step']}" if best else ""}
        for old in self.folder.glob("*.safetensors"):
            if old.stem not in kept:
                old.unlink()

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any] | None, int]:
        """(best so far, steps done). Another run's leftovers in the folder are cleared away."""
        try:
            state = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None, 0
        if state["digest"] != self.digest:
            shutil.rmtree(self.folder)
            self.folder.mkdir()
            return None, 0
        tensors = load_file(self.folder / f"step-{state['step']}.safetensors")
        _set_parameters(model, {k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, index, key = name.split(".")
                moments.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
        return state["best"], state["step"]

    def save_best(self, model: nn.Module, step: int) -> None:
        save_file(
            {name: p.detach().contiguous() for name, p in model.named_parameters()},
            self.folder / f"best-{step}.safetensors",
        )

    def load_best(self, model: nn.Module, step: int) -> None:
        _set_parameters(model, load_file(self.folder / f"best-{step}.safetensors"))


def _set_parameters(model: nn.Module, values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])
