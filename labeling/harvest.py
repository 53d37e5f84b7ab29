"""Documents to an activation store: one early-exit forward pass, postings written by shard.

Shards hold whole documents and depend on nothing outside them, so a rerun after a kill keeps the
ones that are whole and the store comes out the same as if nothing had happened.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from labeling.artifacts import replace_folder, sha256_json, write_json
from labeling.documents import text_sha256
from labeling.events import Artifact, Event, Progress
from labeling.hooks import hook_at
from labeling.references import Reference, Window
from labeling.saes import LoadedSAE, load_sae
from labeling.store import KIND, DocumentRow, finish, write_shard, write_tables
from labeling.tokens import Tokens

DENSE_CELLS = 32 * 1024 * 1024  # at most this many (tok, d_sae) floats exist at a time: 128 MiB


@dataclass(frozen=True)
class StoreDocument:
    """What the harvest needs of a document; `split` decides whether its tokens enter statistics."""

    key: str
    text: str
    family: str
    split: str


@dataclass(frozen=True)
class HarvestConfig:
    shard_tokens: int = 131_072
    batch_tokens: int = 4096
    overlap: int = 32  # context tokens in front of every window of a long document but the first

    def __post_init__(self) -> None:
        for name in ("shard_tokens", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def open_reference(
    model: str, sae_source: str, layer: int | None = None, dtype: torch.dtype | None = None
) -> tuple[Reference, LoadedSAE]:
    """A model and an SAE that fit each other; hook, window size and BOS as the SAE was trained.

    `layer` is needed only where the SAE's metadata does not say which block it reads.
    """
    sae = load_sae(sae_source)
    hook = hook_at(sae_source, sae.metadata, layer)
    bos = sae.metadata.get("prepend_bos")
    context = int(sae.metadata.get("context_size") or 512)
    reference = Reference(model, hook.layer, context, dtype, prepend_bos=bos is None or bool(bos), kind=hook.kind)
    if sae.d_in != reference.d_in:
        raise ValueError(
            f"{sae_source} reads {sae.d_in} dimensions, but the {hook} of {model} has {reference.d_in}; "
            "give an SAE that was trained on this model"
        )
    # TransformerLens centres what writes to the residual stream of models with LayerNorm, and only there.
    centring = (sae.metadata.get("model_from_pretrained_kwargs") or {}).get("center_writing_weights")
    sae.centred = bool(centring) and reference.layer_norm and hook.kind != "z"
    sae.sae.to(reference.device)
    return reference, sae


def harvest(
    documents: Sequence[StoreDocument],
    reference: Reference,
    sae: LoadedSAE,
    out: Path,
    config: HarvestConfig | None = None,
    info: dict[str, Any] | None = None,
) -> Iterator[Event]:
    """Write the store of `documents` to `out`; shards left whole by an interrupted run are kept."""
    config, info = config or HarvestConfig(), info or {}
    if not documents:
        raise ValueError("no documents to harvest; import some first")
    if len({d.key for d in documents}) < len(documents):
        raise ValueError("two documents have the same key; keys must differ")
    tokens: list[Tokens] = []
    for begin in range(0, len(documents), 256):
        yield Progress(begin, len(documents), "documents", "tokenize")
        tokens += reference.tokenize([d.text for d in documents[begin : begin + 256]])
    rows = _assign(documents, tokens, config.shard_tokens)
    work = out.with_name(out.name + ".partial")
    _claim(work, _identity(rows, reference, sae, config))

    total, done = sum(len(t) for t in tokens), 0
    yield Progress(0, total, "tokens", "harvest")
    for shard in range(rows[-1].shard + 1):
        ids = [t.ids for t, row in zip(tokens, rows, strict=True) if row.shard == shard]
        folder = work / "shards" / f"{shard:05d}"
        if not folder.exists():
            for counted in _harvest_shard(ids, reference, sae, folder, config):
                yield Progress(done + counted, total, "tokens", "harvest")
        done += sum(len(i) for i in ids)
        yield Progress(done, total, "tokens", "harvest")

    yield Progress(done, total, "tokens", "statistics")
    write_tables(work, rows, *(np.concatenate([getattr(t, n) for t in tokens]) for n in ("ids", "starts", "ends")))
    full = finish(work, rows, sae.d_sae, _describe(reference, sae) | info)
    replace_folder(work, out)
    yield Artifact(KIND, out, full)


def _assign(documents: Sequence[StoreDocument], tokens: list[Tokens], shard_tokens: int) -> list[DocumentRow]:
    """Consecutive whole documents to shards, a shard ending with the document that fills it."""
    rows, shard, filled = [], 0, 0
    for document, its in zip(documents, tokens, strict=True):
        if filled >= shard_tokens:
            shard, filled = shard + 1, 0
        sha = text_sha256(document.text)
        rows.append(DocumentRow(document.key, sha, document.family, document.split, len(its), shard))
        filled += len(its)
    return rows


def _describe(reference: Reference, sae: LoadedSAE) -> dict[str, Any]:
    return {
        "model": reference.name,
        "layer": reference.layer,
        "hook": reference.hook.name,
        "context": reference.context,
        "prepend_bos": bool(reference.prefix),
        "dtype": str(reference.dtype).removeprefix("torch."),
        "architecture": sae.architecture,
    }


def _identity(rows: list[DocumentRow], reference: Reference, sae: LoadedSAE, config: HarvestConfig) -> str:
    """Hash of everything the shards depend on: shards of another run must not be taken over."""
    tensors = sae.sae.state_dict().items()
    weights = {name: [list(p.shape), float(p.double().sum()), float(p.double().norm())] for name, p in tensors}
    return sha256_json([_describe(reference, sae), weights, asdict(config), [[r.sha256, r.tokens] for r in rows]])


def _claim(work: Path, identity: str) -> None:
    """Make `work` ready for this run: keep it if it is this run's, else start it afresh."""
    plan = work / "plan.json"
    if not plan.exists() or plan.read_text(encoding="utf-8").strip() != f'"{identity}"':
        shutil.rmtree(work, ignore_errors=True)
        (work / "shards").mkdir(parents=True)
        write_json(plan, identity)


def _harvest_shard(
    ids: list[NDArray[np.int32]], reference: Reference, sae: LoadedSAE, folder: Path, config: HarvestConfig
) -> Iterator[int]:
    """Write one shard, beside and then renamed. Yields the number of its tokens done so far."""
    first = np.cumsum([0] + [len(i) for i in ids])
    keys, values, done = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)], 0
    for windows in reference.plan([len(i) for i in ids], config.batch_tokens, config.overlap):
        tokens, scored = reference.batch(windows, ids)
        acts = reference.activations(tokens, scored)[scored.to(reference.device)]  # (tok, d_in)
        where = corpus_positions(windows, first)
        for at, latents, found in postings(sae, acts):
            keys.append(latents * first[-1] + where[at])
            values.append(found)
        done += len(where)
        yield done
    key = np.concatenate(keys)
    beside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    latent, token = np.divmod(key, max(int(first[-1]), 1))
    write_shard(beside, latent, token, np.concatenate(values), int(first[-1]), sae.d_sae)
    os.replace(beside, folder)


def corpus_positions(windows: Sequence[Window], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position, documents laid end to end, of every scored token of a batch in the batch's order."""
    return np.concatenate([np.arange(w.scored_from, w.end) + first[w.document] for w in windows])


@torch.inference_mode()
def postings(
    sae: LoadedSAE, acts: Float[Tensor, "tok d_in"]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """(token index, latent, value) of every activation above 0, a bounded number of tokens at a time."""
    step = max(1, DENSE_CELLS // sae.d_sae)
    for begin in range(0, len(acts), step):
        dense = sae.encode(acts[begin : begin + step])  # (tok, d_sae)
        cells = (dense > 0).view(-1).nonzero().squeeze(1)
        found = dense.view(-1)[cells].cpu().numpy()
        token, latent = np.divmod(cells.cpu().numpy(), sae.d_sae)
        yield token + begin, latent, found
