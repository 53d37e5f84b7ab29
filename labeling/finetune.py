"""Fine-tune every weight of a backbone on weak labels; the best moment on validation is kept.

Training ends early once `patience` validations in a row found nothing better.

A killed run goes on from its last checkpoint and ends with the very weights of an undisturbed one
(on a CPU, with the same number of threads): the order of batches and each step's dropout follow
from the seed and the step's number alone, and everything else is in the checkpoint.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from labeling.artifacts import sha256_json
from labeling.checkpoints import Checkpoints
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
    weights = class_weights(np.concatenate([w.labels for w in windows])) if config.balance else (1.0, 1.0)
    yield Progress(int(tokens[step - 1]) if step else 0, total, "tokens", "train")
    try:
        while step < steps and (best is None or best["since"] < config.patience):
            batch = [windows[i] for i in plan[step]]
            for group in optimizer.param_groups:
                group["lr"] = config.lr * rate(step, steps, config.warmup)
            with torch.random.fork_rng():
                torch.manual_seed(config.seed * 1_000_003 + step)
                loss = _update(classifier, batch, optimizer, weights)
            step += 1
            yield Progress(int(tokens[step - 1]), total, "tokens", "train")
            if step % 10 == 0 or step == steps:
                yield Metric("loss", loss, step)
            if step == steps or (step % every == 0 and steps - step >= every // 2):
                model.eval()
                found = judge(classifier)
                yield Metric("validation_f1", found.f1, step)
                if best is None or found.f1 > best["f1"]:
                    best = {"f1": found.f1, "step": step, "since": 0}
                    run.save_best(model, step)
                else:
                    best |= {"since": best["since"] + 1}
            last = step == steps or (best is not None and best["since"] >= config.patience)
            if step % config.checkpoint_every == 0 or last:
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
    weights: tuple[float, float],
) -> float:
    model = classifier.model.train()
    ids, mask = padded(classifier, [w.ids for w in batch])
    labels = torch.full(ids.shape, float(IGNORED))
    skip = len(classifier.prefix)
    for row, window in enumerate(batch):
        labels[row, skip : skip + len(window)] = torch.from_numpy(window.labels)
    with autocast(model):
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
    loss = token_loss(logits.float(), labels.to(model.device), weights)
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


def token_loss(
    logits: Float[Tensor, "batch pos 2"], labels: Float[Tensor, "batch pos"], weights: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """Mean cross-entropy against P(forget), over the tokens that are not IGNORED; `weights` of retain and forget."""
    known = labels != IGNORED
    y = labels[known]
    margin = logits[known][:, 1] - logits[known][:, 0]
    each = y * weights[1] + (1 - y) * weights[0]
    loss = nn.functional.binary_cross_entropy_with_logits(margin, y, weight=each, reduction="sum")
    return loss / each.sum()


def class_weights(labels: NDArray[np.float32]) -> tuple[float, float]:
    """What makes retain and forget count alike: half over each one's share."""
    forget = float(labels[labels != IGNORED].mean())
    return 0.5 / (1 - forget), 0.5 / forget


def _digest(windows: Sequence[LabelledWindow]) -> str:
    import hashlib

    digest = hashlib.sha256()
    for window in windows:
        digest.update(window.ids.tobytes())
        digest.update(window.labels.tobytes())
    return digest.hexdigest()
