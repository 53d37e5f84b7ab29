"""Pretrains a biLM from scratch: its vocabulary, its text, its training loop (METHOD, step 2).

The two directions never exchange a number, so training them side by side is training them
separately. Half of every batch is the domain's text however little there is of it: a classifier of
medicine must have read medicine. Every batch follows from its number, so a killed run goes on from
its last checkpoint and ends with the weights of an undisturbed one.
"""

import json
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor, nn

from labeling.artifacts import sha256_json, staged
from labeling.bilm import BiLM, BiLMConfig
from labeling.checkpoints import Checkpoints
from labeling.documents import Document, must, read, text_sha256
from labeling.events import Artifact, Event, Metric, Progress
from labeling.references import cpu_has_bf16, load_tokenizer, pick_device

END = "<|endoftext|>"  # stands between documents, and first in every row: something to attend to

# --- settings -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run; anything that changes the weights is here."""

    layers: int = 4
    width: int = 256
    heads: int = 4
    vocab: int = 8192  # pieces of our own byte-level BPE; a given tokenizer has its own number
    block: int = 256  # tokens a row, and the longest window of a classifier made from it
    lr: float = 2e-3
    weight_decay: float = 0.1
    batch_tokens: int = 4096
    micro_tokens: int = 8192  # at most so many go through the model at once
    tokens: int | None = None  # to train on, with repetition; None: 4 × Chinchilla, 80 a parameter
    warmup: float = 0.1  # share of all steps, linear; then a cosine down to a tenth
    domain_share: float = 0.5  # of every batch from the domain's text, however little there is of it
    tokenizer: str | None = None  # hub id or folder; None: train our own
    checkpoint_every: int = 200  # steps
    validate_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "vocab", "block", "batch_tokens", "micro_tokens", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of twice the {self.heads} heads")
        if not 0 <= self.domain_share <= 1 or self.lr <= 0:
            raise ValueError(f"domain_share must be 0 to 1 and lr above 0, not {self.domain_share} and {self.lr}")
        if self.tokenizer is None and self.vocab < 300:
            raise ValueError(f"vocab {self.vocab}: the 256 bytes alone need more; give at least 300")


_PAPER: dict[str, Any] = {"vocab": 100_277, "block": 1024, "batch_tokens": 327_680}
PRESETS: dict[str, dict[str, Any]] = {  # named by one direction's parameters at the paper's vocabulary
    "cpu": {},
    "13M": _PAPER | {"layers": 2, "width": 128, "heads": 4, "lr": 1e-3, "weight_decay": 0.01},
    "61M": _PAPER | {"layers": 7, "width": 448, "heads": 8, "lr": 3e-3},
    "113M": _PAPER | {"layers": 10, "width": 640, "heads": 10, "lr": 3e-3},
    "224M": _PAPER | {"layers": 14, "width": 896, "heads": 14, "lr": 3e-3},
}

# --- text ---------------------------------------------------------------------------------------

Texts = dict[str, Sequence[str]]  # pool ("domain" or "background") -> files of documents


def documents_of(files: Iterable[str]) -> Iterator[Document]:
    for file in files:
        yield from must(read(file))


def make_tokenizer(files: Texts, config: PretrainConfig, characters: int = 50_000_000) -> Any:
    """Our own byte-level BPE, or the one given; either way a row begins and ends with an end-of-text piece."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if config.tokenizer is not None:
        fast = load_tokenizer(config.tokenizer)
        if fast.eos_token is None:
            fast.add_special_tokens({"eos_token": END})
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=config.vocab, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        )
        share = characters // max(1, len(files))
        backend.train_from_iterator((t for pool in files.values() for t in _up_to(documents_of(pool), share)), trainer)
        fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, bos_token=END, pad_token=END)
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{fast.eos_token} $A {fast.eos_token}", special_tokens=[(fast.eos_token, fast.eos_token_id)]
    )
    fast.model_max_length = config.block
    return fast


def _up_to(documents: Iterator[Document], characters: int) -> Iterator[str]:
    for document in documents:
        if characters <= 0:
            return
        characters -= len(document.text)
        yield document.text


def encode(
    tokenizer: Any, pool: str, files: Sequence[str], folder: Path
) -> Generator[Event, None, tuple[NDArray[np.uint32], NDArray[np.uint32]]]:
    """(train, held out): a pool's documents as two streams of token ids on disk, an end-of-text after each.

    One document in fifty is held out, by its hash, so a text that stands twice is never on both sides.
    """
    paths = folder / f"{pool}-train.bin", folder / f"{pool}-held-out.bin"
    if not paths[0].exists():  # written last
        beside = [path.with_suffix(".tmp") for path in paths]
        with beside[0].open("wb") as train, beside[1].open("wb") as held_out:
            done = 0
            for batch in _batched(documents_of(files), 256):
                found = tokenizer.backend_tokenizer.encode_batch([d.text for d in batch], add_special_tokens=False)
                for document, encoding in zip(batch, found, strict=True):
                    ids = np.array([*encoding.ids, tokenizer.eos_token_id], np.uint32)
                    (held_out if int(text_sha256(document.text)[:8], 16) % 50 == 0 else train).write(ids.tobytes())
                    done += len(ids)
                yield Progress(done, None, "tokens", f"tokenize {pool}")
        for tmp, path in reversed(list(zip(beside, paths, strict=True))):
            tmp.rename(path)
    streams = [np.fromfile(p, np.uint32) if not p.stat().st_size else np.memmap(p, np.uint32, "r") for p in paths]
    return streams[0], streams[1]


def _batched(documents: Iterator[Document], size: int) -> Iterator[list[Document]]:
    batch: list[Document] = []
    for document in documents:
        batch.append(document)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


class Rows:
    """A stream cut into rows. Every epoch cuts at another place and visits each row once, in its own order."""

    def __init__(self, stream: NDArray[np.uint32], size: int, seed: int):
        self.stream, self.size, self.seed = stream, size, seed
        self.count = (len(stream) - size) // size
        self._epoch = lru_cache(maxsize=2)(self._plan)

    def _plan(self, epoch: int) -> tuple[int, NDArray[np.int64]]:
        rng = np.random.default_rng([self.seed, epoch])
        return int(rng.integers(self.size)), rng.permutation(self.count)

    def __getitem__(self, n: int) -> NDArray[np.int64]:
        epoch, at = divmod(n, self.count)
        offset, order = self._epoch(epoch)
        start = offset + int(order[at]) * self.size
        return self.stream[start : start + self.size].astype(np.int64)


class Mixture:
    """Batches by number, so any step can be reached at once after a kill: a fixed share from each pool."""

    def __init__(self, pools: dict[str, Rows], batch: int, domain_share: float):
        share = {"domain": domain_share, "background": 1 - domain_share} if len(pools) == 2 else dict.fromkeys(pools, 1)
        self.pools = pools
        self.rows = {name: round(batch * share[name]) for name in pools}

    def batch(self, step: int) -> Int[Tensor, "batch pos"]:
        found = [pool[step * self.rows[name] + i] for name, pool in self.pools.items() for i in range(self.rows[name])]
        return torch.from_numpy(np.stack(found))


# --- training -----------------------------------------------------------------------------------


def losses(model: BiLM, rows: Int[Tensor, "batch pos"], end: int) -> tuple[Tensor, Tensor]:
    """Each direction's loss on the same rows; both read an end-of-text first, as when they classify."""
    first = torch.full_like(rows[:, :1], end)
    reverse = rows.flip(1)
    return (
        model.forward_lm.loss(torch.cat((first, rows[:, :-1]), 1), rows),
        model.backward_lm.loss(torch.cat((first, reverse[:, :-1]), 1), reverse),
    )


def learning_rate(step: int, steps: int, config: PretrainConfig) -> float:
    """Linear up, then a cosine down to a tenth."""
    rise = max(1, round(steps * config.warmup))
    if step < rise:
        return config.lr * (step + 1) / rise
    fallen = (step - rise) / max(1, steps - rise)
    return config.lr * (0.1 + 0.9 * (1 + math.cos(math.pi * fallen)) / 2)


def pretrain(
    out: Path, config: PretrainConfig, background: Sequence[str] = (), domain: Sequence[str] = (),
    work: Path | None = None,
) -> Iterator[Event]:  # fmt: skip
    """Step: files of documents -> a backbone's folder. Resumes from `work` (default: OUT.work) after a kill."""
    files: Texts = {name: f for name, f in (("domain", domain), ("background", background)) if f}
    if not files:
        raise ValueError("no text to learn from; give files of documents")
    sizes = [[Path(f).name, Path(f).stat().st_size] for pool in files.values() for f in pool]
    text_identity = sha256_json([list(files), sizes, config.tokenizer, config.vocab, config.block])
    work = (work or out.with_name(out.name + ".work")) / text_identity[:16]
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "tokenizer" / "tokenizer.json").exists():
        yield Progress(0, None, "", "learn a vocabulary")
        with staged(work / "tokenizer", "tokenizer", {}) as folder:
            make_tokenizer(files, config).save_pretrained(folder)
    tokenizer = load_tokenizer(str(work / "tokenizer"))
    pools, held_out = {}, {}
    for name, paths in files.items():
        train, rest = yield from encode(tokenizer, name, paths, work)
        pools[name], held_out[name] = (Rows(stream, config.block, config.seed) for stream in (train, rest))
        if pools[name].count < 1:
            raise ValueError(f"the {name} text has {len(train):,} tokens, less than one row; give more")
    mixture = Mixture(pools, max(1, config.batch_tokens // config.block), config.domain_share)

    model: BiLM = _fresh(config, len(tokenizer)).to(pick_device())  # type: ignore[arg-type]
    parameters = sum(p.numel() for p in model.forward_lm.parameters())  # type: ignore[misc]
    total = config.tokens or 80 * parameters
    steps = max(1, total // config.batch_tokens)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=config.lr, betas=(0.9, 0.95), fused=True,
    )  # fmt: skip
    saved = replace(config, checkpoint_every=1, validate_every=1)  # how often does not change the weights
    run = Checkpoints(work / "checkpoint", sha256_json([asdict(saved), steps, text_identity]))
    _, step = run.restore(model, optimizer)
    yield Progress(step * config.batch_tokens, steps * config.batch_tokens, "tokens", "pretrain")
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, config)
        both = _update(model, mixture.batch(step), optimizer, config, tokenizer.eos_token_id)
        step += 1
        yield Progress(step * config.batch_tokens, steps * config.batch_tokens, "tokens", "pretrain")
        if step % 10 == 0 or step == steps:
            yield from (Metric(name, value, step) for name, value in zip(("loss", "loss_reverse"), both, strict=True))
        if step % config.validate_every == 0 and step < steps:
            yield from (Metric(k, v, step) for k, v in held_out_losses(model, held_out, tokenizer.eos_token_id).items())
        if step % config.checkpoint_every == 0 or step == steps:
            run.save(model, optimizer, step)

    round_weights(model)
    found = held_out_losses(model, held_out, tokenizer.eos_token_id)
    yield from (Metric(name, value) for name, value in found.items())
    info = {
        "parameters_one_direction": parameters,
        "trained_tokens": steps * config.batch_tokens,
        "distinct_tokens": {name: len(pool.stream) for name, pool in pools.items()},
        "files": {name: [Path(f).name for f in paths] for name, paths in files.items()},
        "config": asdict(config),
        **found,
    }
    with staged(out, "backbone", info) as folder:
        halved: Any = model.to(torch.bfloat16)  # type: ignore[arg-type]
        halved.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card(info), encoding="utf-8")
    yield Artifact("backbone", out, info)


@torch.no_grad()
def round_weights(model: nn.Module) -> None:
    """To what bf16 can hold, so that what is measured is what is saved, in half the space."""
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())


def _fresh(config: PretrainConfig, vocab: int) -> BiLM:
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return BiLM(
            BiLMConfig(
                vocab_size=vocab, num_hidden_layers=config.layers, hidden_size=config.width,
                num_attention_heads=config.heads, max_position_embeddings=config.block,
            )
        )  # fmt: skip


def _update(
    model: BiLM, rows: Int[Tensor, "batch pos"], optimizer: torch.optim.Optimizer, config: PretrainConfig, end: int
) -> tuple[float, float]:
    """One optimizer step; both directions' mean losses."""
    device = model.device
    both = torch.zeros(2)
    for part in rows.split(max(1, config.micro_tokens // config.block)):
        weight = len(part) / len(rows)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or cpu_has_bf16()):
            left, right = losses(model, part.to(device), end)
        ((left + right) * weight).backward()  # type: ignore[no-untyped-call]
        both += torch.stack((left, right)).detach().cpu() * weight
    for one in (model.forward_lm, model.backward_lm):  # each by itself: neither may slow the other down
        nn.utils.clip_grad_norm_(one.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(both[0]), float(both[1])


@torch.inference_mode()
def held_out_losses(model: BiLM, held_out: dict[str, Rows], end: int, most: int = 64) -> dict[str, float]:
    """Nats per token on documents never trained on, the mean of both directions, per pool."""
    found = {}
    for name, rows in held_out.items():
        sample = [rows[i] for i in range(min(most, rows.count))]
        values = [
            torch.stack(losses(model, torch.from_numpy(row)[None].to(model.device), end)).mean() for row in sample
        ]
        if values:
            found[f"held_out_{name}"] = float(torch.stack(values).mean())
    return found


def card(info: dict[str, Any]) -> str:
    """The backbone's model card."""
    c = info["config"]
    measured = "\n".join(f"| {k} | {v:.3f} |" for k, v in info.items() if k.startswith("held_out_"))
    text = "\n".join(
        f"- {name}: {info['distinct_tokens'][name]:,} tokens of {', '.join(paths)}"
        for name, paths in info["files"].items()
    )
    return f"""---
library_name: transformers
tags: [tokensieve, bilm]
---
# biLM, {c["layers"]} layers × {c["width"]}, {info["parameters_one_direction"] / 1e6:.1f}M parameters a direction

Two causal language models, one reading each way; their states, side by side, are what a token classifier is trained on.
Loads with `import labeling.bilm` and `AutoModel.from_pretrained`, or `tokensieve train PROJECT --backbone THIS_FOLDER`.

Trained on {info["trained_tokens"]:,} tokens, {c["domain_share"]:.0%} of every batch from the domain's text, of
{text}

| nats per token | |
|---|---|
{measured}

Settings: `{json.dumps(c, sort_keys=True)}`
"""
