"""Reference models: load one, decoder or encoder, tokenize with offsets, stop at the hook.

`resid_post` of block L is what block L returns, which is Hugging Face `hidden_states[L + 1]`;
reading `hidden_states[L]` is the classic off-by-one (METHOD, traps). The last of `hidden_states`
is normed once more, which no SAE was trained on. The hook sits on the module itself and raises to
end the forward pass there, so later blocks cost nothing.
"""

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from labeling.checks import check_folder
from labeling.hooks import Hook, Kind, locate, parse_hook, width_of
from labeling.hub import first_line, snapshot
from labeling.tokens import Tokens, special_tokens, tokenize, windows

CONFIGURATION = ["*.json", "*.txt", "*.model", "*.tiktoken"]  # a tokenizer's files included


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
    """The text model's stacks of blocks: ModuleLists as long as the config says, nearest the root.

    A biLM has two. A multimodal model (`model.language_model.layers` in Gemma 3) has a vision tower
    besides, perhaps of the same depth.
    """
    text: nn.Module = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
    depth = text_config(model).num_hidden_layers
    stacks = [(name, m) for name, m in text.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not stacks:
        raise ValueError(f"{type(model).__name__}: found no stack of {depth} blocks to hook")
    nearest = min(name.count(".") for name, _ in stacks)
    return [m for name, m in stacks if name.count(".") == nearest]


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The stack of a model that has one, or the first of them."""
    return stacks_of(model)[0]


def text_config(model: Any) -> Any:
    """The configuration of the part that reads text."""
    return model.config.get_text_config()


def checkpoint(name: str, weights: bool = True) -> Path:
    """The folder of a model given by folder or hub id, its headers checked (RELIABILITY 12-14). Raises ValueError.

    Without `weights` only the configuration is fetched. GGUF files never are, as repositories hold a dozen of
    them for one model; one in the cache is found.
    """
    path = Path(name)
    if not path.is_dir():
        if name.startswith((".", "/", "~")):
            raise ValueError(f"{name}: no such folder")
        # Weights of other libraries lie in folders, or beside the model's own as Mistral's `consolidated` do.
        path = snapshot(name, CONFIGURATION + ["*.safetensors"] * weights, ["*/*", "consolidated*"])
    check_folder(path)
    if weights and not any(path.glob("*.safetensors")) and not gguf_file(path):
        raise ValueError(f"{name}: no .safetensors or .gguf weights (pickled ones are not opened)")
    return path


def gguf_file(folder: Path) -> str | None:
    """Name of the one GGUF file in a folder, if that is what the folder holds."""
    files = sorted(p.name for p in folder.glob("*.gguf"))
    if any(folder.glob("*.safetensors")):
        return None  # the same weights, not rounded
    if len(files) > 1:
        raise ValueError(f"{folder}: {len(files)} GGUF files ({', '.join(files)}); keep one")
    return files[0] if files else None


def is_causal(config: Any) -> bool:
    """Whether a checkpoint reads from left to right; BERT and its kin stand in both of the library's tables."""
    from transformers.models.auto import modeling_auto as auto

    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{config.model_type} is an encoder with a decoder; give a model that is one of them")
    heads = tuple(config.architectures or ())
    if any(head.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for head in heads):
        return True
    masked = config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return config.model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not masked


def load_model(name: str, auto_class: Any = None, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """(model, tokenizer) from a hub id or a folder (safetensors or one GGUF file).

    Without `auto_class`, a causal language model, or the bare encoder. Code from the checkpoint
    never runs, pickled weights are refused, and headers are checked first (RELIABILITY 8).
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as hf_logging

    import labeling.layers  # noqa: F401  our own architectures, by name in config.json

    # Its own bars and load reports would tear ours apart.
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    path = checkpoint(name)
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    if gguf := gguf_file(path):
        _silence_gguf_bar()
        options["gguf_file"] = gguf
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        if gguf:
            # Packed blocks are a third of the speed of dense bf16 and cannot be hooked in place.
            options["quantization_config"] = GgufConfig(dequantize=True)
            auto = auto_class or AutoModelForCausalLM
        else:
            options["use_safetensors"] = True
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            auto = auto_class or (AutoModelForCausalLM if is_causal(config) else AutoModel)
        model = auto.from_pretrained(path, dtype=dtype, **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{name}: cannot be loaded as a model: {first_line(error)}") from error
    return model.eval(), tokenizer


def load_tokenizer(name: str) -> Any:
    """A hub id's or a folder's tokenizer, checked like a model's folder; it must give character offsets. ValueError."""
    from transformers import AutoTokenizer

    path = checkpoint(name, weights=False)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{name}: cannot be loaded as a tokenizer ({first_line(error)})") from error
    if not tokenizer.is_fast:
        raise ValueError(f"{name}: no tokenizer.json, so it cannot give character offsets")
    return tokenizer


def _silence_gguf_bar() -> None:
    """transformers draws its own bar while it unpacks a GGUF file, whatever its settings say; it tears ours apart."""
    from transformers import modeling_gguf_pytorch_utils as loading
    from transformers.utils.logging import EmptyTqdm

    loading.tqdm = EmptyTqdm  # type: ignore[attr-defined]


def check_fit(name: str, sae: str, hook_name: str, d_in: int) -> None:
    """Refuse an SAE of another model by the model's configuration alone. Raises ValueError."""
    from transformers import AutoConfig

    path = checkpoint(name, weights=False)
    if gguf_file(path):
        return  # its configuration is inside the weights; loading it tells
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{name}: its configuration cannot be read: {first_line(error)}") from error
    hook = parse_hook(hook_name)
    if not 0 <= hook.layer < config.num_hidden_layers:
        raise ValueError(f"{sae} reads block {hook.layer}; {name} has blocks 0 to {config.num_hidden_layers - 1}")
    if hook.kind != "z" and config.hidden_size != d_in:
        raise ValueError(
            f"{sae} reads {d_in} dimensions, {name} has {config.hidden_size}; give an SAE that was trained on this model"
        )


def longest_input(model: Any, tokenizer: Any) -> int:
    """Positions a model has, special tokens included. RoBERTa counts its own from the padding id on."""
    config = text_config(model)
    learned = getattr(config, "max_position_embeddings", None) or 1 << 30
    return min(int(learned), int(tokenizer.model_max_length))


class Reference:
    """A model with one hook point, by default the output of block `layer` (counted from 0)."""

    def __init__(
        self,
        name: str,
        layer: int,
        context: int = 512,
        dtype: torch.dtype | None = None,
        prepend_bos: bool = True,
        kind: Kind = "resid_post",
    ):
        self.name, self.layer, self.hook = name, layer, Hook(layer, kind)
        self.device = pick_device()
        self.dtype = dtype or pick_dtype(self.device)
        model, self.tokenizer = load_model(name, dtype=self.dtype)
        self.model = model.to(self.device)
        self.causal = is_causal(self.model.config)
        self.blocks = blocks_of(self.model)
        if not 0 <= layer < len(self.blocks):
            raise ValueError(f"{name} has blocks 0 to {len(self.blocks) - 1}; there is no block {layer}")
        self.context = min(context, longest_input(self.model, self.tokenizer))
        self.d_model: int = text_config(self.model).hidden_size
        self.d_in = width_of(locate(self.blocks, self.hook)[0], self.hook, self.d_model)
        # An encoder was never trained without its [CLS] and [SEP]; a decoder's BOS is for the SAE to say.
        self.prefix: list[int] = []
        self.suffix: list[int] = []
        if not self.causal:
            self.prefix, self.suffix = special_tokens(self.tokenizer)
        elif prepend_bos and self.tokenizer.bos_token_id is not None:
            self.prefix = [self.tokenizer.bos_token_id]

    @property
    def module_name(self) -> str:
        """The hooked module by its Hugging Face path, as `hf_hook_name` has it."""
        module, before = locate(self.blocks, self.hook)
        name = next(name for name, m in self.model.named_modules() if m is module)
        return f"{name}.input" if before else name

    @property
    def layer_norm(self) -> bool:
        """Whether the model subtracts the mean in its norms; then only centred states matter to it."""
        return not hasattr(text_config(self.model), "rms_norm_eps")

    def tokenize(self, texts: list[str]) -> list[Tokens]:
        return tokenize(self.tokenizer, texts)

    def plan(self, lengths: Sequence[int], batch_tokens: int = 4096, overlap: int = 64) -> list[list[Window]]:
        """Batches of windows of like length, so that padding is rare. Deterministic."""
        size = self.context - len(self.prefix) - len(self.suffix)
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
        """Padded token ids between prefix and suffix, and which positions are to be scored."""
        offset, extra = len(self.prefix), len(self.prefix) + len(self.suffix)
        width = extra + max(w.end - w.start for w in windows_)
        tokens = torch.zeros((len(windows_), width), dtype=torch.long)
        scored = torch.zeros((len(windows_), width), dtype=torch.bool)
        for row, w in enumerate(windows_):
            fed = [*self.prefix, *ids[w.document][w.start : w.end].tolist(), *self.suffix]
            tokens[row, : len(fed)] = torch.tensor(fed, dtype=torch.long)
            scored[row, offset + w.scored_from - w.start : offset + w.end - w.start] = True
        return tokens, scored

    def inputs(
        self, tokens: Int[Tensor, "batch pos"], scored: Bool[Tensor, "batch pos"] | None = None
    ) -> dict[str, Any]:
        """What the model is called with. Right padding needs no mask where attention looks only left.

        An encoder's does: a window ends with a scored token, then come the suffix and the padding.
        """
        inputs: dict[str, Any] = {"input_ids": tokens.to(self.device)}
        if self.causal:
            return inputs | {"use_cache": False}
        mask = torch.ones_like(tokens)
        if scored is not None:
            place = torch.arange(tokens.shape[1])
            ends = (scored * place).amax(1, keepdim=True) + 1 + len(self.suffix)
            mask = (place < ends).long()
        return inputs | {"attention_mask": mask.to(self.device)}

    @torch.inference_mode()
    def activations(
        self, tokens: Int[Tensor, "batch pos"], scored: Bool[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_in"]:
        """What the hook reads; an encoder needs `scored` to tell its padding."""
        (acts,) = self.activations_at([self.hook], tokens, scored)
        return acts

    @torch.inference_mode()
    def activations_at(
        self, hooks: Sequence[Hook], tokens: Int[Tensor, "batch pos"], scored: Bool[Tensor, "batch pos"] | None = None
    ) -> list[Float[Tensor, "batch pos d_in"]]:
        """What several hooks read in one pass, which ends at the last of them."""
        kept: dict[Hook, Tensor] = {}

        def keep(hook: Hook, value: Any) -> None:
            kept[hook] = value[0] if isinstance(value, tuple) else value
            if len(kept) == len(hooks):
                raise _Reached

        def before(_module: nn.Module, args: Any, named: dict[str, Any], hook: Hook) -> None:
            keep(hook, args or named["hidden_states"])

        def after(_module: nn.Module, _args: Any, output: Any, hook: Hook) -> None:
            keep(hook, output)

        handles = []
        for hook in hooks:
            module, reads_input = locate(self.blocks, hook)
            if reads_input:
                handles.append(module.register_forward_pre_hook(partial(before, hook=hook), with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(partial(after, hook=hook)))
        try:
            self.model(**self.inputs(tokens, scored))
        except _Reached:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return [kept[hook] for hook in hooks]

    def stream(
        self, ids: Sequence[NDArray[np.int32]], batch_tokens: int = 4096
    ) -> Iterator[tuple[list[Window], Float[Tensor, "tok d_in"]]]:
        """Activations of every token of the documents, batch by batch; each token exactly once.

        The rows of a batch follow its windows' scored tokens in order.
        """
        for windows_ in self.plan([len(i) for i in ids], batch_tokens):
            tokens, scored = self.batch(windows_, ids)
            yield windows_, self.activations(tokens, scored)[scored.to(self.device)]


def threads() -> int:
    """CPU threads for torch: all cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
