"""Before a harvest of hours: does this SAE belong to this model at this place? Two thousand tokens tell.

An SAE read one block off, with the wrong BOS policy or from another model still fires, and everything
built on it looks plausible. What gives it away is how badly it reconstructs: the fraction of variance
unexplained (FVU) must be lowest at its own hook.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from labeling.events import Event, Metric, Progress
from labeling.hooks import Hook
from labeling.references import Reference
from labeling.saes import LoadedSAE, fvu
from labeling.tokens import Tokens

TOKENS = 2000
MOST_OF_ONE = 256  # tokens of one document, so that several are seen
WORST_FVU = 0.9  # an SAE that explains less than a tenth of the variance is not this model's
BETTER = 0.9  # another block, or another BOS, has to beat the claimed one by this factor
L0_FACTOR = 3.0
UNKNOWN_SHARE = 0.02

State = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One line of the checklist."""

    name: str
    state: State
    text: str


@dataclass(frozen=True)
class Report:
    """The checklist of one model and SAE; it passes if nothing on it fails."""

    tokens: int
    checks: list[Check]
    figures: dict[str, float]
    around: list[tuple[int, float]]  # (block, FVU) at the hook and beside it

    @property
    def passed(self) -> bool:
        return all(check.state != "fail" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


def preflight(reference: Reference, sae: LoadedSAE, texts: Sequence[str]) -> Iterator[Event | Report]:
    """Step: run about two thousand tokens of the texts, end with the Report.

    What does not even load (another width, no such block, pickled weights) never gets here.
    """
    documents = take(reference.tokenize(list(texts)), reference.context)
    if not documents:
        raise ValueError("there is no text to check the reference on; import some documents first")
    ids = [d.ids for d in documents]
    yield Progress(0, 3, "checks", "reconstruct the blocks around the hook")
    around = [replace(reference.hook, layer=n) for n in neighbours(reference)]
    states = dict(zip(around, read(reference, around, ids), strict=True))
    fvus = {hook: fvu(sae, acts) for hook, acts in states.items() if acts.shape[-1] == sae.d_in}
    yield Progress(1, 3, "checks", "with and without BOS")
    other = bos_switched(reference)
    other_fvu = fvu(sae, read(other, [other.hook], ids)[0]) if other is not None else None
    yield Progress(2, 3, "checks", "activations")
    acts = states[reference.hook]
    features = sae.encode(acts)
    l0 = float((features > 0).sum()) / len(acts)
    figures = {"fvu": fvus[reference.hook], "l0": l0, "largest": float(acts.abs().max())}
    checks = [
        check_model(reference, sae), check_hook(reference.hook, fvus), check_finite(acts, features, reference.dtype),
        check_l0(l0, sae), check_bos(reference, sae, fvus[reference.hook], other_fvu),
        check_vocabulary(reference, documents),
    ]  # fmt: skip
    for name, value in figures.items():
        yield Metric(name, value)
    yield Progress(3, 3, "checks", "checked")
    yield Report(len(acts), checks, figures, [(hook.layer, value) for hook, value in fvus.items()])


def take(documents: list[Tokens], context: int) -> list[Tokens]:
    """The beginnings of documents, a window each, until there are enough tokens."""
    taken, total = list[Tokens](), 0
    for document in documents:
        if total >= TOKENS:
            break
        if len(document):
            most = min(context // 2, MOST_OF_ONE, TOKENS - total)
            taken.append(Tokens(document.ids[:most], document.starts[:most], document.ends[:most]))
            total += len(taken[-1])
    return taken


def neighbours(reference: Reference) -> list[int]:
    """The hooked block and those before and after it."""
    layer = reference.layer
    return [n for n in (layer - 1, layer, layer + 1) if 0 <= n < len(reference.blocks)]


def read(reference: Reference, hooks: list[Hook], ids: list[NDArray[np.int32]]) -> list[Float[Tensor, "tok d_in"]]:
    """What each hook reads of every token, special tokens left out."""
    parts: list[list[Tensor]] = [[] for _ in hooks]
    for windows in reference.plan([len(i) for i in ids]):
        tokens, scored = reference.batch(windows, ids)
        for part, acts in zip(parts, reference.activations_at(hooks, tokens, scored), strict=True):
            part.append(acts[scored.to(acts.device)].float())
    return [torch.cat(part) for part in parts]


def bos_switched(reference: Reference) -> Reference | None:
    """The same model with the other BOS policy; None where there is no choice."""
    bos = reference.tokenizer.bos_token_id
    if not reference.causal or bos is None:
        return None
    other = copy(reference)
    other.prefix = [] if reference.prefix else [bos]
    return other


def check_model(reference: Reference, sae: LoadedSAE) -> Check:
    """Names differ between libraries, so only the words in them are compared; of a folder, only the family's."""
    claimed = str(sae.metadata.get("model_name") or "")
    name = f"{reference.name} {getattr(reference.model.config, '_name_or_path', '')}".lower()
    if not claimed:
        return Check("Model", "warn", "the SAE does not say which model it was trained on")
    words = [w for w in claimed.lower().rsplit("/", 1)[-1].replace("_", "-").split("-") if w not in ("small", "pt")]
    if all(word in name for word in words[: 1 if Path(reference.name).is_dir() else None]):
        return Check("Model", "pass", f"trained on {claimed}")
    return Check("Model", "warn", f"trained on {claimed}, used on {reference.name}: make sure they are the same")


def check_hook(hook: Hook, fvus: dict[Hook, float]) -> Check:
    """An off-by-one shows as a neighbour that is reconstructed better."""
    shown = ", ".join(f"{value:.3f} at block {at.layer}" for at, value in fvus.items())
    best = min(fvus, key=lambda at: fvus[at])
    if not np.isfinite(fvus[hook]) or fvus[hook] > WORST_FVU:
        return Check("Reconstruction", "fail", f"explains almost nothing: FVU {shown}")
    if best != hook and fvus[best] < BETTER * fvus[hook]:
        return Check("Reconstruction", "fail", f"block {best.layer} is reconstructed better than the hook: FVU {shown}")
    return Check("Reconstruction", "pass", f"FVU {shown}")


def check_finite(acts: Tensor, features: Tensor, dtype: torch.dtype) -> Check:
    bad = int((~torch.isfinite(acts)).sum()) + int((~torch.isfinite(features)).sum())
    if bad:
        return Check(
            "Numbers", "fail", f"{bad:,} values are infinite or not numbers in {_short(dtype)}; use another dtype"
        )
    largest = float(features.max())
    if largest > float(np.finfo(np.float16).max):
        return Check("Numbers", "fail", f"activations reach {largest:,.0f}, more than the store's float16 can hold")
    return Check("Numbers", "pass", f"all finite in {_short(dtype)}; states reach {float(acts.abs().max()):,.0f}, activations {largest:,.1f}")  # fmt: skip


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_l0(l0: float, sae: LoadedSAE) -> Check:
    """Active latents a token, against what was published."""
    claimed = getattr(sae.sae.cfg, "k", None) or sae.metadata.get("l0")
    if l0 == 0:
        return Check("L0", "fail", "no latent fires on any token")
    if not claimed:
        return Check(
            "L0",
            "pass" if l0 < sae.d_sae / 20 else "warn",
            f"{l0:.1f} active latents a token; none published to compare with",
        )
    ok = float(claimed) / L0_FACTOR <= l0 <= float(claimed) * L0_FACTOR
    return Check("L0", "pass" if ok else "fail", f"{l0:.1f} active latents a token, {float(claimed):g} published")


def check_bos(reference: Reference, sae: LoadedSAE, own: float, other: float | None) -> Check:
    """BOS has an enormous norm and changes what follows it; the SAE must see what it was trained on."""
    if not reference.causal:
        return Check(
            "Special tokens", "pass", "an encoder: its [CLS] and [SEP] are given, and left out of every statistic"
        )
    policy = sae.metadata.get("prepend_bos")
    said = "not stated, BOS is put in front" if policy is None else "BOS in front" if policy else "no BOS"
    if other is None:
        state: State = "warn" if policy else "pass"
        return Check("BOS", state, f"{said}; the tokenizer has none")
    if np.isfinite(other) and other < BETTER * own:
        return Check("BOS", "fail", f"{said}, but the other way reconstructs better: FVU {own:.3f} against {other:.3f}")
    return Check("BOS", "pass", f"{said}: FVU {own:.3f}, the other way {other:.3f}")


def check_vocabulary(reference: Reference, documents: list[Tokens]) -> Check:
    """Tokens must be ones the model has an embedding for, and knows."""
    ids = np.concatenate([d.ids for d in documents])
    size = reference.model.get_input_embeddings().num_embeddings
    if int(ids.max()) >= size:
        return Check(
            "Vocabulary", "fail", f"token {ids.max()} is beyond the model's {size:,}; the tokenizer is another model's"
        )
    unknown = reference.tokenizer.unk_token_id
    share = float((ids == unknown).mean()) if unknown is not None else 0.0
    text = f"{len(np.unique(ids)):,} different tokens of {size:,}, {share:.1%} unknown"
    return Check("Vocabulary", "fail" if share > UNKNOWN_SHARE else "pass", text)
