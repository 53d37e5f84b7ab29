"""Score text with an exported classifier: any length, input order, every token exactly once.

A truncated document leaves its tail unfiltered without a word (METHOD, traps), so documents are cut
into windows that overlap; the boundary between what two neighbours score lies in the middle of
what they share, so that no scored token lacks context on either side. Documents stream through a
buffer of fixed size; in it, windows of like length go through the model together.

The forward pass is nearly all of the time, so its precision decides the speed: bf16 where the
hardware multiplies it, int8 (the folder's ONNX file) on CPUs with VNNI, fp32 elsewhere.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from labeling.artifacts import ArtifactError, verify
from labeling.documents import Document, must, read, sources
from labeling.events import Artifact, Event, Progress
from labeling.export import LABELS, SETTINGS, identity_of
from labeling.onnx_files import INT8, OnnxModel, can_run
from labeling.predictions import Prediction, PredictionStore, write_predictions
from labeling.references import cpu_has_bf16, load_model, pick_device, pick_dtype
from labeling.tokens import Tokens, special_tokens, tokenize, windows

STEP = 16  # batches are padded to multiples of so many columns
PRECISIONS = ("auto", "full", "int8")  # full: fp32, or bf16 where the hardware has it

__all__ = ["LoadedClassifier", "Prediction", "PredictionStore", "load_classifier", "predict", "predict_corpus"]


@dataclass
class LoadedClassifier:
    """A token classifier ready to score: model, tokenizer, and how to use them."""

    model: Any
    tokenizer: Any
    threshold: float = 0.5
    window: int = 256  # tokens per forward pass, special tokens included
    overlap: int = 64
    smooth: int = 0  # each p becomes the mean over this many tokens to either side
    settings: dict[str, Any] = field(default_factory=dict)
    identity: str = ""  # hash of the exported folder's files
    onnx: OnnxModel | None = None  # scores in the model's place

    def __post_init__(self) -> None:
        self.head = head_of(self.model)
        self.prefix, self.suffix = special_tokens(self.tokenizer)
        self.size = self.window - len(self.prefix) - len(self.suffix)
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"overlap {self.overlap} must be less than the window's {self.size} tokens")


def head_of(model: Any) -> nn.Linear:
    """The last linear layer, which turns each token's state into its two logits."""
    found = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == model.config.num_labels]
    if not found:
        raise ValueError(
            f"{type(model).__name__}: found no linear layer with {model.config.num_labels} outputs to classify with"
        )
    return found[-1]


def pick_precision(folder: Path, asked: str = "auto") -> str:
    """full or int8. By itself int8 is taken only where it pays: on a CPU that multiplies bytes but not bf16."""
    if asked not in PRECISIONS:
        raise ValueError(f"precision {asked!r} is not one of {', '.join(PRECISIONS)}")
    if asked != "auto":
        return asked
    pays = pick_device().type == "cpu" and not cpu_has_bf16() and torch.cpu._is_vnni_supported()
    return "int8" if pays and can_run() and (folder / INT8).is_file() else "full"


def load_classifier(path: Path | str, precision: str = "full") -> LoadedClassifier:
    """Open an exported folder, after checking every byte of it against its manifest."""
    from transformers import AutoModelForTokenClassification

    path = Path(path)
    manifest = verify(path, "classifier")
    try:
        settings = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
        how = {name: settings[name] for name in ("threshold", "window", "overlap", "smooth")}
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path / SETTINGS}: {error!r}; export this classifier again") from None
    model, tokenizer = load_model(str(path), AutoModelForTokenClassification)
    labels = {int(i): name for i, name in model.config.id2label.items()}
    if labels != LABELS:
        raise ValueError(f"{path}: its labels are {labels}, not {LABELS}")
    loaded = LoadedClassifier(model, tokenizer, **how, settings=settings, identity=identity_of(manifest))
    head = {name: tensor.clone() for name, tensor in loaded.head.state_dict().items()}
    device = pick_device()
    model.to(device, pick_dtype(device)).eval()
    # The head stays in fp32: logits in bf16 take only a few hundred values.
    loaded.head.float().load_state_dict(head)
    if pick_precision(path, precision) == "int8":
        loaded.onnx = OnnxModel(path / INT8, torch.get_num_threads())
    return loaded


def autocast(model: Any) -> torch.autocast:
    """bf16 matrix products for a model in fp32 (one in training), where the hardware has them."""
    device = model.device
    return torch.autocast(
        device.type, torch.bfloat16, enabled=model.dtype == torch.float32 and pick_dtype(device) == torch.bfloat16
    )


class _Reached(Exception):
    """Raised on the way into the head, which `states` leaves to its caller."""


def states(
    classifier: LoadedClassifier, batch: Sequence[NDArray[np.int32]], kept: Sequence[slice]
) -> Float[Tensor, "tok d_model"]:
    """What the head would see at the kept tokens of each window, windows in order.

    This, not `hidden_states`, is what a probe must be fitted on: models differ in what they do
    (norms, dense layers) between their last block and their head.
    """
    ids, mask = padded(classifier, batch)
    found: list[Tensor] = []

    def stop(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0])
        raise _Reached

    handle = classifier.head.register_forward_pre_hook(stop)
    try:
        device = classifier.head.weight.device
        classifier.model(input_ids=ids.to(device), attention_mask=mask.to(device))
    except _Reached:
        pass
    finally:
        handle.remove()
    skip = len(classifier.prefix)
    return torch.cat([row[skip + k.start : skip + k.stop] for row, k in zip(found[0], kept, strict=True)])


def padded(classifier: LoadedClassifier, batch: Sequence[NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
    """`batched` as tensors."""
    ids, mask = batched(classifier, batch)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def width(classifier: LoadedClassifier, longest: int) -> int:
    """Columns of a batch, special tokens included: in steps, for the CPU's kernels keep memory for every shape they met."""
    columns = len(classifier.prefix) + longest + len(classifier.suffix)
    return min(-(-columns // STEP) * STEP, classifier.window)


def batched(
    classifier: LoadedClassifier, batch: Sequence[NDArray[np.int32]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids with special tokens around each window, padded on the right, and the attention mask."""
    extra = len(classifier.prefix) + len(classifier.suffix)
    shape = len(batch), width(classifier, max(len(ids) for ids in batch))
    tokens = np.full(shape, classifier.tokenizer.pad_token_id or 0, np.int64)
    mask = np.zeros(shape, np.int64)
    for row, ids in enumerate(batch):
        tokens[row, : extra + len(ids)] = [*classifier.prefix, *ids, *classifier.suffix]
        mask[row, : extra + len(ids)] = 1
    return tokens, mask


@torch.inference_mode()
def p_forget(
    classifier: LoadedClassifier, batch: Sequence[NDArray[np.int32]], kept: Sequence[slice]
) -> NDArray[np.float32]:
    """P(forget) of the kept tokens of each window, windows in order."""
    if classifier.onnx is not None:
        logits = classifier.onnx.logits(*batched(classifier, batch))
        skip = len(classifier.prefix)
        flat = np.concatenate([row[skip + k.start : skip + k.stop] for row, k in zip(logits, kept, strict=True)])
        return (1 / (1 + np.exp(flat[:, 0] - flat[:, 1]))).astype(np.float32)
    with autocast(classifier.model):
        found = states(classifier, batch, kept)
    head = classifier.head
    return nn.functional.linear(found.float(), head.weight, head.bias).softmax(-1)[:, 1].cpu().numpy()


def stretches(length: int, size: int, overlap: int) -> list[tuple[int, int, slice]]:
    """Windows over a document and which of each one's tokens it scores: (start, end, kept)."""
    cut = windows(length, size, overlap)
    edges = [0, *(start + overlap // 2 for start, _, _ in cut[1:]), length]
    return [(start, end, slice(edges[i] - start, edges[i + 1] - start)) for i, (start, end, _) in enumerate(cut)]


def score(
    classifier: LoadedClassifier, documents: Sequence[NDArray[np.int32]], batch_tokens: int
) -> list[NDArray[np.float32]]:
    """P(forget) of every token of each document, given as token ids."""
    out = [np.zeros(len(ids), np.float32) for ids in documents]
    for batch in plan(classifier, [len(ids) for ids in documents], batch_tokens):
        p = p_forget(classifier, [documents[d][start:end] for d, start, end, _ in batch], [kept for *_, kept in batch])
        at = 0
        for d, start, _, kept in batch:
            n = kept.stop - kept.start
            out[d][start + kept.start : start + kept.stop] = p[at : at + n]
            at += n
    return [smoothed(p, classifier.smooth) for p in out]


def plan(
    classifier: LoadedClassifier, lengths: Sequence[int], batch_tokens: int
) -> Iterator[list[tuple[int, int, int, slice]]]:
    """Batches of windows (document, start, end, kept) of like length, so that little of a batch is padding."""
    every = [(d, *s) for d, n in enumerate(lengths) for s in stretches(n, classifier.size, classifier.overlap)]
    every.sort(key=lambda w: (w[1] - w[2], w[0], w[1]))  # longest first; then a fixed order
    begin = 0
    while begin < len(every):
        rows = max(1, batch_tokens // width(classifier, every[begin][2] - every[begin][1]))
        yield every[begin : begin + rows]
        begin += rows


def smoothed(p: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    """Mean over `radius` tokens to either side, fewer at the document's ends: steadier spans."""
    if radius == 0 or not len(p):
        return p
    sums = np.concatenate(([0.0], np.cumsum(p, dtype=np.float64)))
    at = np.arange(len(p))
    first, last = np.maximum(at - radius, 0), np.minimum(at + radius + 1, len(p))
    return ((sums[last] - sums[first]) / (last - first)).clip(0, 1).astype(np.float32)


def predict(
    classifier: LoadedClassifier,
    documents: Iterable[Document],
    batch_tokens: int = 2048,
    buffer_characters: int = 400_000,
) -> Iterator[Prediction]:
    """Scored documents in the order given. Small batches stay in a CPU's cache. Memory: one buffer, or the one document larger than it."""
    for _, _, prediction in predict_tokens(classifier, documents, batch_tokens, buffer_characters):
        yield prediction


def predict_tokens(
    classifier: LoadedClassifier,
    documents: Iterable[Document],
    batch_tokens: int = 2048,
    buffer_characters: int = 400_000,
) -> Iterator[tuple[Document, Tokens, Prediction]]:
    """What `predict` gives, with each document and its tokens."""
    for buffer in _buffers(documents, buffer_characters):
        tokens = tokenize(classifier.tokenizer, [d.text for d in buffer])
        scores = score(classifier, [t.ids for t in tokens], batch_tokens)
        for document, t, p in zip(buffer, tokens, scores, strict=True):
            yield document, t, Prediction(document.id, *covering(document.text, t), p)


def covering(text: str, tokens: Tokens) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(starts, ends) stretched over characters the tokenizer dropped (accents, control characters).

    Left in the gap between two tokens they would belong to neither, and slip through a filter.
    """
    starts, ends = tokens.starts.copy(), tokens.ends.copy()
    if len(tokens):
        if text[: starts[0]].strip():
            starts[0] = 0
        gaps = np.flatnonzero(np.append(starts[1:], len(text)) > ends)
        following = np.append(starts[1:], len(text))[gaps]
        for i, end, start in zip(gaps.tolist(), ends[gaps].tolist(), following.tolist(), strict=True):
            if dropped := text[end:start].rstrip():
                ends[i] = end + len(dropped) if dropped.strip() else end
    return starts, ends


def _buffers(documents: Iterable[Document], characters: int) -> Iterator[list[Document]]:
    buffer: list[Document] = []
    held = 0
    for document in documents:
        buffer.append(document)
        held += len(document.text)
        if held >= characters:
            yield buffer
            buffer, held = [], 0
    if buffer:
        yield buffer


def predict_corpus(classifier_path: Path, documents: Iterable[Document], out: Path) -> Iterator[Event]:
    """Score documents into a PredictionStore (artifact kind "predictions")."""
    classifier = load_classifier(classifier_path, "auto")  # as `predict` would: what is measured is what is used
    info = {"classifier": classifier.identity, "threshold": classifier.threshold}
    yield from write_predictions(predict(classifier, documents), out, info)


def predict_files(
    classifier_path: Path,
    inputs: list[str],
    out: str,
    text_field: str = "text",
    id_field: str = "id",
    precision: str = "auto",
) -> Iterator[Event]:
    """Step: score files (`-`: JSONL on standard input) into one predictions file (`-`: standard output).

    A row that cannot be read stops the run: a file that silently skips rows would pass for whole.
    """
    files = sources(inputs)
    classifier = load_classifier(classifier_path, precision)
    documents = (d for source in files for d in must(read(source, text_field, id_field)))
    target = Path(out)
    beside = target.with_name(f".{target.name}.tmp")
    file = sys.stdout if out == "-" else beside.open("w", encoding="utf-8")
    done = tokens = 0
    try:
        for prediction in predict(classifier, documents):
            file.write(json.dumps(prediction.to_json(classifier.threshold)) + "\n")
            done, tokens = done + 1, tokens + len(prediction)
            if done % 20 == 0:
                yield Progress(tokens, None, "tokens", "predict")
        file.flush()
        if out != "-":
            os.fsync(file.fileno())
            file.close()
            os.replace(beside, target)
    finally:
        if out != "-":
            file.close()
            beside.unlink(missing_ok=True)
    yield Progress(tokens, tokens, "tokens", "predict")
    yield Artifact("predictions", target, {"documents": done, "tokens": tokens})
