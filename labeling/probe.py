"""A linear probe on a frozen backbone, one per depth; the best on validation is kept (METHOD, step 2).

Frozen and linear because the labels are noisy: a probe cannot learn one label's mistake by heart.
The backbone is cut after the last layer that is read, so earlier is also faster. A rerun starts
over: it takes minutes and gives the same weights.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from labeling.events import Event, Metric, Progress
from labeling.examples import IGNORED, LabelledWindow, TrainConfig, Validation
from labeling.layers import joined
from labeling.predict import LoadedClassifier, autocast, states
from labeling.references import blocks_of, stacks_of

Layers = tuple[int, ...]


def fit_probe(
    load: Callable[[], LoadedClassifier],
    windows: Sequence[LabelledWindow],
    judge: Callable[[LoadedClassifier], Validation],
    config: TrainConfig,
) -> Generator[Event, None, tuple[LoadedClassifier, Layers]]:
    """Returns the cut classifier with its probe as head, and the layers it reads."""
    classifier = load()
    depth = len(blocks_of(classifier.model))
    layers = sorted(set(config.layers or range(1, depth + 1)), reverse=True)
    if not layers or layers[0] > depth or layers[-1] < 1:
        raise ValueError(f"layers {list(config.layers or ())}: {config.backbone} can be cut after 1 to {depth} blocks")
    choices: list[Layers] = [tuple(reversed(layers))] if config.concat else [(layer,) for layer in layers]
    windows = sample(windows, config)
    targets = labels_of(windows)
    best: tuple[float, Layers, Tensor, float] | None = None
    for done, choice in enumerate(choices):
        classifier = reading(classifier, choice)
        note = f"probe after block {'+'.join(map(str, choice))}"
        yield Progress(done, len(choices), "layers", note)
        x = yield from features(classifier, windows, config.batch_tokens, note)
        weight, bias = logistic(x, targets, config.l2, config.balance)
        del x
        set_probe(classifier.head, weight, bias)
        f1 = judge(classifier).f1
        yield Metric("validation_f1", f1, choice[-1])
        if best is None or f1 >= best[0]:  # of equals the shallower: it is faster
            best = f1, choice, weight, bias
    assert best is not None, layers
    _, choice, weight, bias = best
    classifier = reading(load(), choice)
    set_probe(classifier.head, weight, bias)
    return classifier, choice


def reading(classifier: LoadedClassifier, layers: Layers) -> LoadedClassifier:
    """The classifier with a head that reads these layers; what lies above them is cut off, in place."""
    cut(classifier.model, layers[-1])
    return replace(classifier, model=joined(classifier.model, layers)) if len(layers) > 1 else classifier


def cut(model: Any, layer: int) -> None:
    """Keep the first `layer` blocks, in the config too, so that the saved folder is the smaller model."""
    for blocks in stacks_of(model):
        del blocks[layer:]
    config = model.config.get_text_config()
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layer]
    config.num_hidden_layers = layer


def set_probe(head: nn.Linear, weight: Float[Tensor, " d_model"], bias: float) -> None:
    """Two logits whose softmax is the probe's sigmoid: retain 0, forget w·x + b."""
    with torch.no_grad():
        head.weight.zero_()[1] = weight.to(head.weight)
        head.bias.zero_()[1] = bias


def sample(windows: Sequence[LabelledWindow], config: TrainConfig) -> list[LabelledWindow]:
    """A random choice of windows up to `probe_tokens`, long ones first so that batches need little padding."""
    order = np.random.default_rng(config.seed).permutation(len(windows))
    total = np.cumsum([len(windows[i]) for i in order])
    kept = [windows[i] for i in order[: int(np.searchsorted(total, config.probe_tokens)) + 1]]
    return sorted(kept, key=len, reverse=True)


def labels_of(windows: Sequence[LabelledWindow]) -> Float[Tensor, " tok"]:
    """P(forget) of every labelled token, windows in order."""
    labels = np.concatenate([w.labels for w in windows])
    return torch.from_numpy(labels[labels != IGNORED])


def features(
    classifier: LoadedClassifier, windows: Sequence[LabelledWindow], batch_tokens: int, note: str
) -> Generator[Event, None, Float[Tensor, "tok d_model"]]:
    """What the head sees at every labelled token, windows in order."""
    learned = [w.labels != IGNORED for w in windows]
    total = sum(len(w) for w in windows)
    out = torch.empty((int(sum(mask.sum() for mask in learned)), classifier.head.in_features))
    at = seen = begin = 0
    while begin < len(windows):
        rows = max(1, 4 * batch_tokens // len(windows[begin]))
        batch = windows[begin : begin + rows]
        with torch.inference_mode(), autocast(classifier.model):
            found = states(classifier, [w.ids for w in batch], [slice(0, len(w)) for w in batch])
        kept = found[torch.from_numpy(np.concatenate(learned[begin : begin + rows])).to(found.device)]
        out[at : at + len(kept)] = kept.float().cpu()
        at, seen, begin = at + len(kept), seen + sum(map(len, batch)), begin + rows
        yield Progress(seen, total, "tokens", note)
    assert at == len(out), (at, len(out))
    return out


def logistic(
    x: Float[Tensor, "tok d_model"], y: Float[Tensor, " tok"], l2: float, balance: bool = False
) -> tuple[Float[Tensor, " d_model"], float]:
    """Logistic regression by L-BFGS on labels or probabilities: (weight, bias) for the features as given.

    Fitted on standardised features, in place to save memory (`x` is spoiled), and folded back.
    Mean loss + l2/2 |w|²: scikit-learn's C is 1 / (l2 · tok).
    """
    mean, sd = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    x.sub_(mean).div_(sd)
    share = y.mean()
    each = y * 0.5 / share + (1 - y) * 0.5 / (1 - share) if balance else None
    parameters = torch.zeros(x.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=200,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = x @ parameters[:-1] + parameters[-1]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, y, weight=each)
        loss = loss + l2 / 2 * parameters[:-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    weight = parameters.detach()[:-1] / sd
    return weight, float(parameters.detach()[-1] - weight @ mean)
