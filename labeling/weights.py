"""What the weights alone say of a latent: the tokens its direction promotes, the latents that point its way.

Needs the model and the SAE, so it is worked out once per reference, in a worker, and kept.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from labeling.artifacts import staged
from labeling.events import Artifact, Event, Progress
from labeling.references import Reference
from labeling.saes import LoadedSAE

KIND = "weights"
NEAREST = 8
TOKENS = 10  # promoted, and as many suppressed
BLOCK = 512  # latents at a time


@dataclass(frozen=True)
class Unembedding:
    """From the residual stream to logits, linearised: the final norm's scale folded in."""

    matrix: Float[Tensor, "vocab d_in"]
    ids: Int[Tensor, " vocab"]  # special tokens and padding rows left out
    centred: bool  # LayerNorm also takes the mean away


def describe(reference: Reference, sae: LoadedSAE, out: Path, info: dict[str, Any]) -> Iterator[Event]:
    """Write `weights.npz` (nearest decoder directions; promoted and suppressed tokens) and `tokens.json`."""
    decoder = sae.sae.W_dec.detach().float()  # (F, d_in)
    columns: dict[str, list[NDArray[Any]]] = {}
    head = unembedding(reference, str(sae.metadata.get("hook_name") or ""))
    unit = nn.functional.normalize(decoder, dim=1)
    for begin in range(0, len(decoder), BLOCK):
        rows = slice(begin, begin + BLOCK)
        found = nearest(unit, rows) | (logits(decoder[rows], head) if head else {})
        for name, part in found.items():
            columns.setdefault(name, []).append(part.cpu().numpy())
        yield Progress(min(begin + BLOCK, len(decoder)), len(decoder), "latents", "read weights")
    table = {name: np.concatenate(parts) for name, parts in columns.items()}
    used = {int(token) for name in ("promoted", "suppressed") if head for token in np.unique(table[name])}
    info = info | {"neuronpedia": sae.metadata.get("neuronpedia_id"), "logits": head is not None}
    with staged(out, KIND, info) as folder:
        np.savez(folder / "weights.npz", **table)  # type: ignore[arg-type]
        names = {str(token): readable(reference.tokenizer, token) for token in sorted(used)}
        (folder / "tokens.json").write_text(json.dumps(names), encoding="ascii")
    yield Artifact(KIND, out, info)


@torch.inference_mode()
def nearest(unit: Float[Tensor, "d_sae d_in"], rows: slice) -> dict[str, Tensor]:
    """The decoder directions with the largest cosine, each latent itself left out."""
    cosine = unit[rows] @ unit.T
    at = torch.arange(len(cosine), device=cosine.device)
    cosine[at, at + rows.start] = -2
    best = cosine.topk(min(NEAREST, len(unit) - 1), dim=1)
    return {"near": best.indices.int(), "near_cosine": best.values}


@torch.inference_mode()
def logits(decoder: Float[Tensor, "latent d_in"], head: Unembedding) -> dict[str, Tensor]:
    """The direct effect of one unit of each latent on the output: its largest and smallest logits."""
    if head.centred:
        decoder = decoder - decoder.mean(1, keepdim=True)
    effect = (decoder.to(head.matrix.dtype) @ head.matrix.T).float()  # (latent, vocab)
    n = min(TOKENS, effect.shape[1])
    up, down = effect.topk(n, dim=1), effect.topk(n, dim=1, largest=False)
    return {
        "promoted": head.ids[up.indices].int(), "promoted_logit": up.values,
        "suppressed": head.ids[down.indices].int(), "suppressed_logit": down.values,
    }  # fmt: skip


@torch.inference_mode()
def unembedding(reference: Reference, hook: str) -> Unembedding | None:
    """None for encoders, and where the SAE's vectors are not of the residual stream (`hook_z`)."""
    embeddings = getattr(reference.model, "get_output_embeddings", lambda: None)()
    if embeddings is None or "hook_z" in hook:
        return None
    matrix: Tensor = embeddings.weight
    special = set(reference.tokenizer.all_special_ids)
    size = min(len(matrix), len(reference.tokenizer))
    ids = torch.tensor([i for i in range(size) if i not in special], device=matrix.device)
    norm = final_norm(reference)
    scale = norm_scale(norm, matrix.shape[1]) if norm is not None else torch.ones_like(matrix[0])
    return Unembedding(matrix[ids] * scale, ids, isinstance(norm, nn.LayerNorm))


def final_norm(reference: Reference) -> nn.Module | None:
    """The last norm outside the blocks."""
    inside = set(reference.blocks.modules())
    outside = [m for m in reference.model.modules() if "Norm" in type(m).__name__ and m not in inside]
    return outside[-1] if outside else None


def norm_scale(norm: nn.Module, width: int) -> Float[Tensor, " d_in"]:
    """What the norm multiplies by, asked rather than read: Gemma's weight is its scale less one.

    ±1 in turn has mean 0 and variance 1, so every kind of norm leaves it as it is but for its scale and bias.
    """
    probe = torch.ones(width, device=next(norm.parameters()).device, dtype=next(norm.parameters()).dtype)
    probe[1::2] = -1
    scale: Tensor = (norm(probe) - norm(-probe)) / 2 * probe
    return scale


def readable(tokenizer: Any, token: int) -> str:
    """The token's text; its raw form where it is only part of a character."""
    text: str = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return str(tokenizer.convert_ids_to_tokens(token)) if not text or "�" in text else text
