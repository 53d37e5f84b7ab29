"""Reference language models: load one, tokenize with offsets, stop at the hooked block.

`resid_post` of block L is what block L returns, which is Hugging Face `hidden_states[L + 1]`;
reading `hidden_states[L]` is the classic off-by-one (METHOD, traps). The hook sits on the block
itself and raises to end the forward pass there, so later blocks cost nothing.
"""

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from labeling.tokens import Tokens, tokenize, windows


@dataclass(frozen=True)
class Window:
    """A stretch of one document's tokens that goes through the model together."""

    document: int  # index into the documents given
    start: int  # first token fed
    end: int
    scored_from: int  # tokens before this one are context only


class _Reached(Exception):
    """Raised by the hook to leave the model once the wanted block has run."""


def cpu_has_bf16() -> bool:
    """bf16 matrix products pay only where the CPU has instructions for them.

    oneDNN calls every AVX-512 CPU capable and emulates what is missing, at a fifth of fp32's speed.
    """
    if platform.machine() in ("x86_64", "AMD64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pick_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware has it, else fp32. Never fp16: Gemma overflows in it, CPUs crawl."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if cpu_has_bf16() else torch.float32


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def stacks_of(model: nn.Module) -> list[nn.ModuleList]:
    """The stacks of transformer blocks: ModuleLists as long as the config says, nearest the root. A biLM has two."""
    config: Any = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    depth = config.num_hidden_layers
    stacks = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not stacks:
        raise ValueError(f"{type(model).__name__}: found no stack of {depth} blocks to hook")
    nearest = min(name.count(".") for name, _ in stacks)
    return [m for name, m in stacks if name.count(".") == nearest]


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The stack of a model that has one, or the first of them."""
    return stacks_of(model)[0]


def gguf_file(folder: Path) -> str | None:
    """Name of the one GGUF file in a folder, if that is what the folder holds."""
    files = sorted(p.name for p in folder.glob("*.gguf"))
    if len(files) > 1:
        raise ValueError(f"{folder}: {len(files)} GGUF files ({', '.join(files)}); keep one")
    return files[0] if files else None


def load_model(name: str, auto_class: Any = None, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """(model, tokenizer) from a hub id or a folder (safetensors or one GGUF file).

    Code from the checkpoint never runs and pickled weights are refused (RELIABILITY 8).
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as hf_logging

    import labeling.layers  # noqa: F401  our own architectures, by name in config.json

    # Its own bars and load reports would tear ours apart.
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    auto = auto_class or AutoModelForCausalLM
    options: dict[str, Any] = {"trust_remote_code": False}
    path = Path(name)
    if path.is_dir():
        options["local_files_only"] = True
        gguf = gguf_file(path)
        if gguf:
            _check_gguf(path / gguf)
            _silence_gguf_bar()
            options["gguf_file"] = gguf
            # Packed blocks are a third of the speed of dense bf16 and cannot be hooked in place.
            options["quantization_config"] = GgufConfig(dequantize=True)
        elif not list(path.glob("*.safetensors")):
            raise ValueError(
                f"{path}: no .safetensors or .gguf weights; pickled weights (.bin, .pt) are not loaded, convert them first"
            )
    elif name.startswith((".", "/", "~")):
        raise ValueError(f"{name}: no such folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, **{k: v for k, v in options.items() if k != "quantization_config"}
        )
        if "gguf_file" not in options:
            options["use_safetensors"] = True
        model = auto.from_pretrained(name, dtype=dtype, **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{name}: cannot be loaded as a model: {first_line}") from error
    return model.eval(), tokenizer


def _silence_gguf_bar() -> None:
    """transformers draws its own bar while it unpacks a GGUF file, whatever its settings say; it tears ours apart."""
    from transformers import modeling_gguf_pytorch_utils as loading
    from transformers.utils.logging import EmptyTqdm

    loading.tqdm = EmptyTqdm  # type: ignore[attr-defined]


def _check_gguf(path: Path) -> None:
    """A truncated GGUF loads as garbage or crashes deep inside; find out from its own header first."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(str(path))
        size = path.stat().st_size
        ends = [int(t.data_offset) + int(t.n_bytes) for t in reader.tensors]
    except Exception as error:  # the reader raises whatever numpy raises on short files
        raise ValueError(f"{path}: not a readable GGUF file ({error}); fetch it again") from None
    if not ends or max(ends) > size:
        raise ValueError(
            f"{path}: truncated ({size:,} bytes, its header promises {max(ends, default=0):,}); fetch it again"
        )


class Reference:
    """A language model with one hook point: the output of block `layer` (counted from 0)."""

    def __init__(
        self, name: str, layer: int, context: int = 512, dtype: torch.dtype | None = None, prepend_bos: bool = True
    ):
        self.name, self.layer, self.context = name, layer, context
        self.device = pick_device()
        self.dtype = dtype or pick_dtype(self.device)
        model, self.tokenizer = load_model(name, dtype=self.dtype)
        self.model = model.to(self.device)
        self.blocks = blocks_of(self.model)
        if not 0 <= layer < len(self.blocks):
            raise ValueError(f"{name} has blocks 0 to {len(self.blocks) - 1}; there is no block {layer}")
        self.d_model: int = self.model.config.get_text_config().hidden_size
        bos = self.tokenizer.bos_token_id
        self.prefix = [bos] if prepend_bos and bos is not None else []

    def tokenize(self, texts: list[str]) -> list[Tokens]:
        return tokenize(self.tokenizer, texts)

    def plan(self, lengths: Sequence[int], batch_tokens: int = 4096, overlap: int = 64) -> list[list[Window]]:
        """Batches of windows of like length, so that padding is rare. Deterministic."""
        size = self.context - len(self.prefix)
        every = [Window(d, *w) for d, n in enumerate(lengths) for w in windows(n, size, min(overlap, size // 2))]
        every.sort(key=lambda w: (w.start - w.end, w.document, w.start))
        batches: list[list[Window]] = []
        for window in every:
            longest = batches[-1][0].end - batches[-1][0].start if batches else 0
            if not batches or longest * (len(batches[-1]) + 1) > batch_tokens:
                batches.append([])
            batches[-1].append(window)
        return batches

    def batch(
        self, windows_: Sequence[Window], ids: Sequence[NDArray[np.int32]]
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """Padded token ids with the prefix in front, and which positions are to be scored."""
        offset = len(self.prefix)
        width = offset + max(w.end - w.start for w in windows_)
        tokens = torch.zeros((len(windows_), width), dtype=torch.long)
        scored = torch.zeros((len(windows_), width), dtype=torch.bool)
        for row, w in enumerate(windows_):
            tokens[row, :offset] = torch.tensor(self.prefix, dtype=torch.long)
            tokens[row, offset : offset + w.end - w.start] = torch.from_numpy(
                ids[w.document][w.start : w.end].astype(np.int64)
            )
            scored[row, offset + w.scored_from - w.start : offset + w.end - w.start] = True
        return tokens, scored

    @torch.inference_mode()
    def activations(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_in"]:
        """Output of the hooked block. Right padding needs no mask: the model is causal."""
        kept: list[Tensor] = []

        def stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
            kept.append(output[0] if isinstance(output, tuple) else output)
            raise _Reached

        handle = self.blocks[self.layer].register_forward_hook(stop)
        try:
            self.model(input_ids=tokens.to(self.device), use_cache=False)
        except _Reached:
            pass
        finally:
            handle.remove()
        return kept[0]

    def stream(
        self, ids: Sequence[NDArray[np.int32]], batch_tokens: int = 4096
    ) -> Iterator[tuple[list[Window], Float[Tensor, "tok d_in"]]]:
        """Activations of every token of the documents, batch by batch; each token exactly once.

        The rows of a batch follow its windows' scored tokens in order.
        """
        for windows_ in self.plan([len(i) for i in ids], batch_tokens):
            tokens, scored = self.batch(windows_, ids)
            yield windows_, self.activations(tokens)[scored.to(self.device)]


def threads() -> int:
    """CPU threads for torch: all cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
