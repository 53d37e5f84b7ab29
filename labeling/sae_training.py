"""Train an SAE on our own harvest of any model.

sae-lens's trainer does the optimisation; the activations come from `Reference.stream`, because
sae-lens's own store packs documents together and passes no mask.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from labeling.artifacts import sha256_json, write_json
from labeling.documents import Document, read, text_sha256
from labeling.events import Artifact, Event, Metric, Progress
from labeling.harvest import open_reference
from labeling.hooks import KINDS, Hook, Kind
from labeling.references import Reference, cpu_has_bf16
from labeling.sae_card import sae_card
from labeling.saes import downstream_loss, evaluate_reconstruction, load_sae, unexplained


@dataclass(frozen=True)
class SAEConfig:
    """One training run; anything that changes the result is here and in the checkpoint's hash."""

    model: str
    layer: int
    d_sae: int = 4096
    k: int = 24
    architecture: str = "topk"  # topk | batchtopk | jumprelu
    samples: int = 20_000_000
    batch: int = 2048
    lr: float = 1.2e-3
    warmup_steps: int = 200
    decay_share: float = 0.25  # of all steps, linear to zero
    context: int = 256
    shard_tokens: int = 262_144
    pool_shards: int = 8  # shards mixed in memory at a time
    held_out_tokens: int = 100_000
    seed: int = 0
    init: str = ""  # folder of an SAE to go on from; with a larger d_sae it grows
    kind: Kind = "resid_post"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"hook {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.architecture not in ("topk", "batchtopk", "jumprelu"):
            raise ValueError(f"architecture {self.architecture!r} is not one of topk, batchtopk, jumprelu")
        for name in ("d_sae", "k", "samples", "batch", "context", "shard_tokens", "pool_shards"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def identity(self) -> dict[str, Any]:
        """What a checkpoint's hash is made of; the hook joined later, and the usual one leaves no trace."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("kind", "resid_post")}


# --- harvest: dense activations in shards -------------------------------------------------------


def take_tokens(documents: Iterable[Document], limit: int | None, reference: Reference) -> list[tuple[str, np.ndarray]]:
    """(sha256, token ids) of distinct documents up to `limit` tokens, in hash order.

    Hash order is a random order that needs no seed: files sorted by topic come out mixed.
    """
    texts = sorted({text_sha256(d.text): d.text for d in documents}.items())
    out: list[tuple[str, np.ndarray]] = []
    total = 0
    for begin in range(0, len(texts), 256):
        chunk = texts[begin : begin + 256]
        for (sha, _), tokens in zip(chunk, reference.tokenize([t for _, t in chunk]), strict=True):
            if limit is not None and total >= limit:
                return out
            out.append((sha, tokens.ids))
            total += len(tokens)
    return out


def harvest_dense(
    corpus: list[tuple[str, np.ndarray]], reference: Reference, out: Path, config: SAEConfig
) -> Iterator[Event]:
    """Write activations as bf16 safetensors shards, `held-out` first. A rerun skips whole shards."""
    out.mkdir(parents=True, exist_ok=True)
    corpus = sorted(corpus, key=lambda pair: pair[0])
    sizes = np.cumsum([len(ids) for _, ids in corpus])
    held = int(np.searchsorted(sizes, config.held_out_tokens)) + 1
    groups = [("held-out", corpus[:held])]
    begin, count = held, 0
    for i in range(held, len(corpus)):
        count += len(corpus[i][1])
        if count >= config.shard_tokens or i == len(corpus) - 1:
            groups.append((f"train-{len(groups) - 1:05d}", corpus[begin : i + 1]))
            begin, count = i + 1, 0
    total, done = int(sizes[-1]), 0
    yield Progress(0, total, "tokens", "harvest")
    for name, group in groups:
        path = out / f"{name}.safetensors"
        tokens = sum(len(ids) for _, ids in group)
        hook = [config.kind] if config.kind != "resid_post" else []
        digest = sha256_json([config.model, config.layer, config.context, [sha for sha, _ in group], *hook])
        if path.exists() and _shard_digest(path) == digest:
            done += tokens
            yield Progress(done, total, "tokens", "harvest")
            continue
        acts = torch.empty((tokens, reference.d_in), dtype=torch.bfloat16)
        at = 0
        for _, block in reference.stream([ids for _, ids in group]):
            acts[at : at + len(block)] = block
            at += len(block)
            yield Progress(done + at, total, "tokens", "harvest")
        assert at == tokens, (at, tokens)
        beside = path.with_suffix(".tmp")
        save_file({"acts": acts}, beside, metadata={"digest": digest})
        os.replace(beside, path)
        done += tokens


def _shard_digest(path: Path) -> str | None:
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("digest")


class Batches:
    """Endless shuffled batches over the shards; any step can be reached again after a kill.

    Each epoch permutes the shards, mixes `pool_shards` of them at a time in memory, and permutes
    the rows of that pool. Rows left over at a pool's end are dropped for that epoch.
    """

    def __init__(self, shards: list[Path], batch: int, pool_shards: int, seed: int):
        self.shards, self.batch, self.pool_shards, self.seed = shards, batch, pool_shards, seed
        self.rows = []
        for shard in shards:
            with safe_open(shard, framework="pt") as file:
                self.rows.append(file.get_slice("acts").get_shape()[0])
        if sum(self.rows) < batch:
            raise ValueError(
                f"only {sum(self.rows):,} tokens harvested, fewer than one batch of {batch:,}; give more text"
            )

    def start(self, step: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Batches from the `step`-th on (counted from 0)."""
        epoch = 0
        while True:
            rng = np.random.default_rng([self.seed, epoch])
            order = rng.permutation(len(self.shards))
            for begin in range(0, len(order), self.pool_shards):
                members = order[begin : begin + self.pool_shards]
                n = sum(self.rows[i] for i in members)
                rows = torch.from_numpy(rng.permutation(n))
                if step >= n // self.batch:
                    step -= n // self.batch
                    continue
                pool = torch.cat([load_file(self.shards[i])["acts"] for i in members])
                for b in range(step, n // self.batch):
                    yield pool[rows[b * self.batch : (b + 1) * self.batch]].float()
                step = 0
            epoch += 1


def train_from_text(sources: list[str], config: SAEConfig, work: Path, out: Path) -> Iterator[Event]:
    """Step: harvest the files (`FILE` or `FILE=TOKENS`) into `work`, train on them, save to `out`."""
    if shutil.disk_usage(work.parent if work.parent.exists() else Path()).free < 1 << 30:
        raise ValueError(f"{work}: less than 1 GB free; activations take about {2 * 576:,} bytes a token at width 576")
    reference = Reference(config.model, config.layer, context=config.context, kind=config.kind)
    corpus, taken = corpus_of(sources, reference)
    yield from harvest_dense(list(corpus.items()), reference, work / "acts", config)
    yield from train_sae(work, config, reference.d_in, out, module=reference.module_name, sources=taken)


def corpus_of(sources: list[str], reference: Reference) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Token ids by the hash of their text, from `FILE` or `FILE=TOKENS`, and how many tokens each source gave."""
    corpus: dict[str, np.ndarray] = {}
    taken: dict[str, int] = {}
    for source in sources:
        path, _, limit = source.rpartition("=") if "=" in source else (source, "", "")
        try:
            tokens = int(float(limit)) if limit else None
        except ValueError:
            raise ValueError(f"--text {source}: the part after = must be a number of tokens") from None
        found = take_tokens((d for d in read(path) if isinstance(d, Document)), tokens, reference)
        taken[source] = sum(len(ids) for sha, ids in found if sha not in corpus)
        corpus.update(found)
    return corpus, taken


def evaluate_on_text(sources: list[str], model: str, sae: str, layer: int | None = None) -> Iterator[Event]:
    """Step: how well an SAE reconstructs the states of the files' tokens, and what that costs the model's loss."""
    reference, loaded = open_reference(model, sae, layer)
    corpus, _ = corpus_of(sources, reference)
    if not corpus:
        raise ValueError(f"{', '.join(sources)}: no documents to evaluate on")
    ids = list(corpus.values())
    blocks, total = list[Tensor](), sum(len(i) for i in ids)
    for _, block in reference.stream(ids):
        blocks.append(block.float())
        yield Progress(sum(map(len, blocks)), total, "tokens", "read states")
    report = {"tokens": float(total)} | evaluate_reconstruction(loaded, torch.cat(blocks))
    if reference.causal:
        yield Progress(0, 1, "passes", "compare losses")
        report |= {f"loss_{name}": value for name, value in downstream_loss(reference, loaded, ids).items()}
        yield Progress(1, 1, "passes", "compare losses")
    for name, value in report.items():
        yield Metric(name, value)


# --- training -----------------------------------------------------------------------------------


def _training_sae(config: SAEConfig, d_in: int) -> Any:
    from sae_lens import (
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        JumpReLUTrainingSAE,
        JumpReLUTrainingSAEConfig,
        TopKTrainingSAEConfig,
    )

    from labeling.sparse_topk import SparseTopKTrainingSAE

    torch.manual_seed(config.seed)
    common: dict[str, Any] = {"d_in": d_in, "d_sae": config.d_sae, "dtype": "float32", "device": "cpu"}
    if config.architecture == "topk":
        return SparseTopKTrainingSAE(TopKTrainingSAEConfig(k=config.k, **common))
    if config.architecture == "batchtopk":
        return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(k=config.k, topk_threshold_lr=0.1, **common))
    return JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(l0_coefficient=1.0, **common))


@torch.no_grad()
def _start_from(sae: Any, folder: str, scale: float, acts: Float[Tensor, "tok d_in"], seed: int) -> None:
    """Take over the weights of a saved SAE; latents beyond its own begin at what it reconstructs worst.

    `acts` are as the trainer sees them, `scale` times those the saved SAE reads. A new latent points along the
    error of a token drawn by its squared error (Bricken et al. 2023, resampling), encoder and decoder alike. Their
    fifth of the usual norm suits an L1 penalty: under TopK such a latent would never be among the largest.
    """
    old = load_sae(folder)
    if old.d_in != sae.cfg.d_in or old.d_sae > sae.cfg.d_sae or old.architecture != "topk":
        raise ValueError(
            f"{folder}: a {old.architecture} SAE of {old.d_in} dimensions and {old.d_sae} latents cannot start one of "
            f"topk, {sae.cfg.d_in} and {sae.cfg.d_sae}; give the same width and at least as many latents"
        )
    n = old.d_sae
    w_enc, w_dec = old.sae.W_enc, old.sae.W_dec
    sae.W_enc[:, :n], sae.W_dec[:n] = w_enc, w_dec
    sae.b_enc[:n], sae.b_enc[n:] = old.sae.b_enc * scale, 0
    sae.b_dec.copy_(old.sae.b_dec * scale)
    if n < sae.cfg.d_sae:
        errors = acts - old.reconstruct(acts / scale) * scale
        share = errors.double().pow(2).sum(1)
        drawn = np.random.default_rng(seed).choice(
            len(acts), sae.cfg.d_sae - n, replace=False, p=(share / share.sum()).numpy()
        )
        directions = torch.nn.functional.normalize(errors[torch.from_numpy(drawn)], dim=1)
        sae.W_dec[n:] = directions
        sae.W_enc[:, n:] = directions.t()


def train_sae(
    work: Path, config: SAEConfig, d_in: int, out: Path, checkpoint_every: int = 500, module: str = "",
    sources: dict[str, int] | None = None,
) -> Iterator[Event]:  # fmt: skip
    """Train on the shards in `work/acts` and save to `out` in sae-lens's own format, with a card.

    Resumes from `work/checkpoint` with the same weights an undisturbed run would have had.
    """
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    steps = config.samples // config.batch
    shards = sorted((work / "acts").glob("train-*.safetensors"))
    batches = Batches(shards, config.batch, config.pool_shards, config.seed)
    held_out = load_file(work / "acts" / "held-out.safetensors")["acts"].float()
    sae = _training_sae(config, d_in)
    decay = int(steps * config.decay_share)
    trainer: Any = SAETrainer(
        SAETrainerConfig(
            total_training_samples=steps * config.batch, train_batch_size_samples=config.batch,
            lr=config.lr, lr_end=config.lr, lr_scheduler_name="constant",
            lr_warm_up_steps=min(config.warmup_steps, steps // 4), lr_decay_steps=decay,
            autocast=config.architecture != "topk" and cpu_has_bf16(),
        ),
        sae=sae, data_provider=iter(()),
    )  # fmt: skip
    # Residual streams differ a hundredfold in norm between models; train at norm sqrt(d_in), fold back below.
    scale = float(d_in**0.5 / held_out.norm(dim=-1).mean())
    trainer.activation_scaler.scaling_factor = scale
    # One pass over the parameters instead of ten; the trainer offers no option for it.
    for group in trainer.optimizer.param_groups:
        group.update(fused=True, foreach=False)
    checkpoint = work / "checkpoint"
    digest = sha256_json([replace(config, samples=steps).identity(), [p.name for p in batches.shards], batches.rows])
    if (checkpoint / "state.json").exists():
        _restore(checkpoint, trainer, digest)
    elif config.init:
        _start_from(sae, config.init, scale, load_file(shards[0])["acts"].float() * scale, config.seed)
    data = batches.start(trainer.n_training_steps)
    while trainer.n_training_steps < steps:
        output = trainer.step(next(data))
        trainer.n_training_steps += 1
        step = trainer.n_training_steps
        if step % 20 == 0 or step == steps:
            yield Progress(step * config.batch, steps * config.batch, "samples", "train SAE")
        if step % 100 == 0:
            yield Metric("loss", float(output.loss.detach()), step)
            states, made = output.sae_in.detach().float(), output.sae_out.detach().float()
            yield Metric("fvu", unexplained((states - made).pow(2).sum(1), states), step)
            yield Metric("l0", float(output.feature_acts.bool().float().sum() / len(output.sae_in)), step)
            yield Metric("dead", float(trainer.dead_neurons.sum()), step)
        if step % checkpoint_every == 0 and step < steps:
            _save_checkpoint(checkpoint, trainer, digest)
    if config.architecture == "batchtopk":
        calibrate(sae, held_out[:1024] * scale, config.k)
    with torch.no_grad():
        sae.fold_activation_norm_scaling_factor(scale)
    sae.cfg.metadata.model_name = config.model
    sae.cfg.metadata.hook_name = Hook(config.layer, config.kind).name
    sae.cfg.metadata.hf_hook_name = module or None
    sae.cfg.metadata.hook_layer = config.layer
    sae.cfg.metadata.context_size = config.context
    sae.cfg.metadata.prepend_bos = True
    sae.cfg.metadata.dataset_path = None
    beside = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    sae.save_inference_model(str(beside))
    config_file = beside / "cfg.json"
    write_json(config_file, json.loads(config_file.read_text(encoding="utf-8")))  # whose order follows a set's
    report = evaluate_reconstruction(load_sae(str(beside)), held_out)
    report["dead"] = float(trainer.dead_neurons.sum())
    info = {"config": asdict(config), "training_tokens": sum(batches.rows), "held_out_tokens": len(held_out), **report}
    (beside / "README.md").write_text(sae_card(info, d_in, module, sources or {}), encoding="utf-8")
    if out.exists():
        shutil.rmtree(out)
    os.replace(beside, out)
    for name, value in report.items():
        yield Metric(name, value)
    yield Artifact("sae", out, info)


@torch.no_grad()
def calibrate(sae: Any, acts: Float[Tensor, "tok d_in"], k: int) -> None:
    """Set BatchTopK's threshold so that k latents are active on average; its own is a slow moving average."""
    _, pre = sae.encode_with_hidden_pre(acts)  # (tok, d_sae)
    sae.topk_threshold.fill_(float(pre.relu().flatten().topk(k * len(acts)).values[-1]))


def _save_checkpoint(folder: Path, trainer: Any, digest: str) -> None:
    """Safetensors and JSON only. The counters are written last and name the tensors' file."""
    folder.mkdir(exist_ok=True)
    step = trainer.n_training_steps
    tensors = {f"sae.{k}": v for k, v in trainer.sae.state_dict().items()}
    for index, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{k}": v for k, v in state.items()}
    tensors["act_freq_scores"] = trainer.act_freq_scores
    tensors["n_forward_passes_since_fired"] = trainer.n_forward_passes_since_fired
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{step}.safetensors")
    state = {
        "step": step,
        "samples": trainer.n_training_samples,
        "active": trainer.n_frac_active_samples,
        "digest": digest,
    }
    write_json(folder / "state.json", state)
    for old in folder.glob("*.safetensors"):
        if old.stem != str(step):
            old.unlink()


def _restore(folder: Path, trainer: Any, digest: str) -> None:
    state = json.loads((folder / "state.json").read_text())
    if state["digest"] != digest:
        raise ValueError(f"{folder} belongs to another configuration or text; remove it or give another --work folder")
    tensors = load_file(folder / f"{state['step']}.safetensors")
    trainer.sae.load_state_dict({k.removeprefix("sae."): v for k, v in tensors.items() if k.startswith("sae.")})
    optimizer = trainer.optimizer.state_dict()
    optimizer["state"] = {}
    parameters = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, index, name = key.split(".")
            if name != "step":  # the fused update expects a moment to lie in memory as its parameter does
                value = torch.empty_like(parameters[int(index)]).copy_(value)
            optimizer["state"].setdefault(int(index), {})[name] = value
    for _ in range(state["step"]):
        trainer.lr_scheduler.step()
        for scheduler in trainer.coefficient_schedulers.values():
            scheduler.step()
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    optimizer["param_groups"] = [g | {"lr": lr} for g, lr in zip(optimizer["param_groups"], rates, strict=True)]
    trainer.optimizer.load_state_dict(optimizer)
    trainer.act_freq_scores = tensors["act_freq_scores"]
    trainer.n_forward_passes_since_fired = tensors["n_forward_passes_since_fired"]
    trainer.n_training_steps, trainer.n_training_samples = state["step"], state["samples"]
    trainer.n_frac_active_samples = state["active"]
