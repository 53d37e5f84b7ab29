"""Sparse autoencoders: load any that sae-lens reads, and measure how well one reconstructs.

sae-lens costs seconds and half a gigabyte to import, so it is imported inside functions and only
in workers.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from labeling.checks import check_folder
from labeling.hooks import locate
from labeling.hub import first_line, snapshot
from labeling.references import Reference
from labeling.sae_registry import Entry, find
from labeling.sae_sources import read_folder

# sae-lens would otherwise log to a cloud service (RELIABILITY 8).
os.environ.setdefault("WANDB_MODE", "disabled")
MASSIVE = 10.0  # times the median norm


@dataclass
class LoadedSAE:
    """An SAE in fp32 (bf16 weights flip one active latent in a hundred) and what it was trained on."""

    sae: Any
    d_in: int
    d_sae: int
    architecture: str
    metadata: dict[str, Any]
    centred: bool = False  # trained on a model whose weights were centred: subtract the states' mean

    def prepare(self, acts: Float[Tensor, "tok d_in"]) -> Float[Tensor, "tok d_in"]:
        """The states as the SAE was trained on them."""
        acts = acts.float()
        return acts - acts.mean(-1, keepdim=True) if self.centred else acts

    @torch.inference_mode()
    def encode(self, acts: Float[Tensor, "tok d_in"]) -> Float[Tensor, "tok d_sae"]:
        return self.sae.encode(self.prepare(acts))

    @torch.inference_mode()
    def reconstruct(self, acts: Float[Tensor, "tok d_in"]) -> Float[Tensor, "tok d_in"]:
        prepared = self.prepare(acts)
        return self.sae.decode(self.sae.encode(prepared)) + (acts.float() - prepared)


def load_sae(source: str, device: str = "cpu") -> LoadedSAE:
    """A folder of any format in `labeling.sae_sources`, `release/sae_id` of sae-lens's registry, or
    `owner/repository/folder` of the hub. Raises ValueError."""
    import warnings

    path = Path(source)
    l0 = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about versions and norms; the preflight measures instead
        if path.is_dir():
            sae = _from_folder(path, device)
        elif source.startswith((".", "/", "~")) or source.count("/") < 1:
            raise ValueError(f"{source}: neither a folder nor release/sae_id of the sae-lens registry")
        elif entry := find(source):
            sae, l0 = _from_registry(entry, device), entry.l0
        else:
            try:
                folder = hub_folder(source)
            except ValueError as error:
                raise ValueError(f"{source}: not in sae-lens's registry, and {error}") from error
            sae = _from_folder(folder, device)
    if sae.cfg.reshape_activations == "hook_z":
        sae.turn_off_forward_pass_hook_z_reshaping()  # our hook gives the heads side by side already
    metadata = sae.cfg.metadata.to_dict() | ({"l0": l0} if l0 else {})
    return LoadedSAE(sae.eval(), sae.cfg.d_in, sae.cfg.d_sae, sae.cfg.architecture(), metadata)


def _from_folder(path: Path, device: str) -> Any:
    from sae_lens import SAE

    source = read_folder(path)
    config = {**source.config, "dtype": "float32", "device": device}
    try:
        return SAE.load_from_disk(path, device, "float32", converter=lambda *_, **__: (config, source.weights()))
    except (RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: its weights do not fit its configuration: {first_line(error)}") from error


def _from_registry(entry: Entry, device: str) -> Any:
    from sae_lens import SAE

    if entry.refusal:
        raise ValueError(f"{entry.source}: {entry.refusal}")
    folder = hub_folder(f"{entry.repo}/{entry.path}")
    if entry.loader in ("gemma_2", "gemma_3"):
        # sae-lens's own loaders take the sizes from the repository's name, or ask the network for them.
        sae = _from_folder(folder, device)
        sae.cfg.metadata.model_name, sae.cfg.metadata.neuronpedia_id = entry.model, entry.neuronpedia
        return sae
    for part in {folder, *(file.parent for file in folder.rglob("*.safetensors"))}:  # Llama Scope has `checkpoints`
        check_folder(part)
    try:
        return SAE.from_pretrained(entry.release, entry.sae_id, device=device, dtype="float32")
    except OSError as error:  # the hub's errors are, whether it cannot be reached or lacks the file
        raise ValueError(f"{entry.source}: cannot be fetched from {entry.repo}: {first_line(error)}") from error


def hub_folder(source: str) -> Path:
    """`owner/repository/folder` of the hub, fetched or from the cache: configurations and safe weights only."""
    owner, repository, *folder = source.split("/")
    inside = "/".join(folder)
    at = f"{inside}/" if inside else ""
    # The run's configuration lies above the SAEs in sparsify's repositories.
    root = snapshot(f"{owner}/{repository}", [f"{at}*.json", f"{at}*.safetensors", f"{at}params.npz", "config.json"])
    if not (root / inside).is_dir():
        raise ValueError(
            f"the hub's {owner}/{repository} has no folder {inside} with .json, .safetensors or .npz files"
        )
    return root / inside


def usual(acts: Float[Tensor, "tok d_in"]) -> Bool[Tensor, " tok"]:
    """All tokens but the few with massive states, on which attention rests (Sun et al. 2024, massive activations).

    Their norm is a hundred times the usual, so the variance would be theirs alone. Without BOS every text's first
    token is one.
    """
    norms = acts.float().norm(dim=-1)
    return norms <= MASSIVE * norms.median()


def unexplained(errors: Float[Tensor, " tok"], states: Float[Tensor, "tok d_in"]) -> float:
    """Fraction of variance unexplained (FVU) by squared errors: 0 is perfect, 1 is predicting the mean."""
    return float(errors.sum() / (states - states.mean(0)).pow(2).sum())


def fvu(sae: LoadedSAE, acts: Float[Tensor, "tok d_in"]) -> float:
    """FVU of the usual tokens; a massive state, reconstructed well or badly, would drown them."""
    acts = acts[usual(acts)]
    return unexplained((sae.reconstruct(acts) - acts.float()).pow(2).sum(1), sae.prepare(acts))


@torch.inference_mode()
def evaluate_reconstruction(loaded: LoadedSAE, acts: Float[Tensor, "tok d_in"]) -> dict[str, float]:
    """FVU with and without massive states (how many), L0 and latents that never fire, on activations the SAE was
    not trained on."""
    fired = torch.zeros(loaded.d_sae, dtype=torch.bool, device=acts.device)
    errors, active = [], 0.0
    for block in acts.split(4096):
        features = loaded.encode(block)
        fired |= (features > 0).any(0)
        active += float((features > 0).sum())
        errors.append((loaded.prepare(block) - loaded.sae.decode(features)).pow(2).sum(1))
    error, kept, states = torch.cat(errors), usual(acts), loaded.prepare(acts)
    return {
        "held_out_fvu": unexplained(error, states),
        "held_out_fvu_usual": unexplained(error[kept], states[kept]),
        "held_out_massive": float((~kept).sum()),
        "held_out_l0": active / len(acts),
        "held_out_silent": float((~fired).sum()),
    }


@torch.inference_mode()
def downstream_loss(reference: Reference, loaded: LoadedSAE, ids: list[np.ndarray]) -> dict[str, float]:
    """Next-token loss (nats) of the model as it is, with the SAE's reconstruction at the hook, and with zeros there.

    `recovered` is (zeroed - reconstructed) / (zeroed - clean): 1 if the reconstruction loses nothing. Special
    tokens keep their own states, as the SAE never saw them.
    """
    if not reference.causal:
        raise ValueError(f"{reference.name} is an encoder: it predicts no next token whose loss could be compared")
    module, before = locate(reference.blocks, reference.hook)
    edits: dict[str, Callable[[Tensor], Tensor] | None] = {
        "clean": None,
        "reconstructed": lambda x: loaded.reconstruct(x.reshape(-1, x.shape[-1])).reshape(x.shape).to(x.dtype),
        "zeroed": torch.zeros_like,
    }
    totals, count = dict.fromkeys(edits, 0.0), 0
    special = len(reference.prefix)
    for windows in reference.plan([len(i) for i in ids]):
        tokens, scored = reference.batch(windows, ids)
        count += int(scored[:, 1:].sum())
        for name, edit in edits.items():

            def replace_states(_module: Any, *values: Any, edit: Any = edit) -> Any:
                output = values[-1]  # a hook before the module gets its inputs only
                states = output[0] if isinstance(output, tuple) else output
                changed = torch.cat([states[:, :special], edit(states[:, special:])], dim=1)
                return (changed, *output[1:]) if isinstance(output, tuple) else changed

            register = module.register_forward_pre_hook if before else module.register_forward_hook
            handle = register(replace_states) if edit else None
            try:
                logits = reference.model(input_ids=tokens.to(reference.device), use_cache=False).logits
            finally:
                if handle:
                    handle.remove()
            losses = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten().to(logits.device), reduction="none"
            )
            totals[name] += float(losses[scored[:, 1:].flatten()].sum())
    losses_ = {name: total / count for name, total in totals.items()}
    recovered = (losses_["zeroed"] - losses_["reconstructed"]) / (losses_["zeroed"] - losses_["clean"])
    return {**losses_, "recovered": recovered}
