"""A linear probe on a frozen backbone, one per depth; the best on validation is kept (METHOD, step 2).

Frozen and linear because the labels are noisy: a probe cannot learn one label's mistake by heart.
The backbone is cut after the chosen block, so earlier is also faster. A rerun starts over: it takes
minutes and gives the same weights.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from labeling.events import Event, Metric, Progress
from labeling.examples import IGNORED, LabelledWindow, TrainConfig, Validation
from labeling.predict import LoadedClassifier, autocast, states
from labeling.references import blocks_of


def fit_probe(
    load: Callable[[], LoadedClassifier],
    windows: Sequence[LabelledWindow],
    judge: Callable[[LoadedClassifier], Validation],
    config: TrainConfig,
) -> Generator[Event, None, tuple[LoadedClassifier, int]]:
    """Returns the cut classifier with its probe as head, and how many blocks it kept."""
    classifier = load()
    depth = len(blocks_of(classifier.model))
    layers = sorted(set(config.layers or range(1, depth + 1)), reverse=True)
    if not layers or layers[0] > depth or layers[-1] < 1:
        raise ValueError(f"layers {list(config.layers or ())}: {config.backbone} can be cut after 1 to {depth} blocks")
    windows = _sample(windows, config)
    y = np.concatenate([w.labels for w in windows])
    targets = torch.from_numpy(y[y != IGNORED].astype(np.float32))
    best: tuple[float, int, Tensor, float] | None = None
    for done, layer in enumerate(layers):
        cut(classifier.model, layer)
        yield Progress(done, len(layers), "layers", f"probe after block {layer}")
        features = yield from _features(classifier, windows, config, f"probe after block {layer}")
        weight, bias = logistic(features, targets, config.l2, config.balance)
        del features
        set_probe(classifier.head, weight, bias)
        f1 = judge(classifier).f1
        yield Metric("validation_f1", f1, layer)
        if best is None or f1 >= best[0]:  # of equals the shallower: it is faster
            best = f1, layer, weight, bias
    assert best is not None, layers
    _, layer, weight, bias = best
    classifier = load()
    cut(classifier.model, layer)
    set_probe(classifier.head, weight, bias)
    return classifier, layer


def cut(model: Any, layer: int) -> None:
    """Keep the first `layer` blocks, in the config too, so that the saved folder is the smaller model."""
    blocks = blocks_of(model)
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


def _sample(windows: Sequence[LabelledWindow], config: TrainConfig) -> list[LabelledWindow]:
    """A random choice of windows up to `probe_tokens`, long ones first so that batches need little padding."""
    order = np.random.default_rng(config.seed).permutation(len(windows))
    total = np.cumsum([len(windows[i]) for i in order])
    kept = [windows[i] for i in order[: int(np.searchsorted(total, config.probe_tokens)) + 1]]
    return sorted(kept, key=len, reverse=True)


def _features(
    classifier: LoadedClassifier, windows: Sequence[LabelledWindow], config: TrainConfig, note: str
) -> Generator[Event, None, Float[Tensor, "tok d_model"]]:
    """What the head sees at every labelled token, windows in order."""
    learned = [w.labels != IGNORED for w in windows]
    total = sum(len(w) for w in windows)
    out = torch.empty((int(sum(mask.sum() for mask in learned)), classifier.head.in_features))
    at = seen = begin = 0
    while begin < len(windows):
        rows = max(1, 4 * config.batch_tokens // len(windows[begin]))
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
    """Logistic regression by L-BFGS: (weight, bias) for the features as given.

    Fitted on standardised features, in place to save memory (`x` is spoiled), and folded back.
    Mean loss + l2/2 |w|²: scikit-learn's C is 1 / (l2 · tok).
    """
    mean, sd = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    x.sub_(mean).div_(sd)
    share = y.mean()
    each = torch.where(y > 0, 0.5 / share, 0.5 / (1 - share)) if balance else None
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
