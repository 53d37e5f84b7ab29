"""The biLM: two causal language models, one reading each way, pretrained from scratch (METHOD, step 2).

A token's state is what the left-to-right model knows of the text up to it, beside what the
right-to-left one knows of the text from it on. The right-to-left model is an ordinary causal one
that is fed the text reversed and whose states are flipped back; that, and rotating along the
sequence rather than along the heads, are the two things public implementations got wrong.

It is a Hugging Face model (`AutoModel`, `AutoModelForTokenClassification`), so whatever reads an
encoder reads a biLM too. `labeling.pretraining` trains one.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, TokenClassifierOutput


class BiLMConfig(PreTrainedConfig):  # type: ignore[misc]
    model_type = "bilm"

    def __init__(
        self,
        vocab_size: int = 8192,
        num_hidden_layers: int = 4,
        hidden_size: int = 256,
        num_attention_heads: int = 4,
        max_position_embeddings: int = 256,
        rope_base: float = 10_000.0,
        **kwargs: Any,
    ):
        self.vocab_size, self.num_hidden_layers, self.hidden_size = vocab_size, num_hidden_layers, hidden_size
        self.num_attention_heads, self.max_position_embeddings = num_attention_heads, max_position_embeddings
        self.rope_base = rope_base
        super().__init__(**kwargs)


def norm(x: Tensor) -> Tensor:
    """RMSNorm without a gain: the linear map that follows can learn it."""
    return F.rms_norm(x, x.shape[-1:])


def rotation(length: int, size: int, base: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """RoPE's cosines and sines, (pos, size / 2) each: one row per place in the sequence."""
    frequency = base ** (-torch.arange(0, size, 2, device=like.device, dtype=torch.float32) / size)
    angle = torch.arange(length, device=like.device, dtype=torch.float32)[:, None] * frequency
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def rotate(x: Float[Tensor, "batch head pos size"], turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair of coordinates by its position's angle. `pos` must be the last axis but one."""
    cos, sin = turn
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Block(nn.Module):
    """Pre-norm attention and ReLU² MLP, no biases."""

    def __init__(self, config: BiLMConfig):
        super().__init__()
        d = config.hidden_size
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)
        self.up = nn.Linear(d, 4 * d, bias=False)
        self.down = nn.Linear(4 * d, d, bias=False)

    def forward(self, x: Float[Tensor, "batch pos d"], turn: tuple[Tensor, Tensor]) -> Float[Tensor, "batch pos d"]:
        x = x + self.attend(norm(x), turn)
        return x + self.down(self.up(norm(x)).relu().square())

    def attend(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        batch, length, d = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (batch, head, pos, size) each
        y = F.scaled_dot_product_attention(rotate(q, turn), rotate(k, turn), v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, d))


class CausalLM(nn.Module):
    """One direction: GPT-2's shape, the embedding tied to the output."""

    def __init__(self, config: BiLMConfig):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.size, self.base = config.hidden_size // config.num_attention_heads, config.rope_base

    def states(self, ids: Int[Tensor, "batch pos"]) -> list[Float[Tensor, "batch pos d"]]:
        """Normed states after the embedding and after every block."""
        x = self.embed(ids)
        turn = rotation(ids.shape[1], self.size, self.base, x)
        found = [norm(x)]
        for block in self.blocks:
            x = block(x, turn)
            found.append(norm(x))
        return found

    def loss(self, ids: Int[Tensor, "batch pos"], targets: Int[Tensor, "batch pos"]) -> Tensor:
        """Mean nats per token."""
        return CrossEntropy.apply(self.states(ids)[-1].flatten(0, 1), self.embed.weight, targets.flatten())  # type: ignore[no-any-return,no-untyped-call]


class CrossEntropy(torch.autograd.Function):
    """Mean of `F.cross_entropy(F.linear(states, weight), targets)`, a stretch of tokens at a time.

    A vocabulary's logits for a whole batch, their softmax and its gradient are most of the memory a
    small model moves. A stretch's fit in the cache, and its gradients are worked out while they do.
    """

    STRETCH = 256  # tokens

    @staticmethod
    def forward(
        ctx: Any, states: Float[Tensor, "tok d"], weight: Float[Tensor, "piece d"], targets: Int[Tensor, " tok"]
    ) -> Tensor:
        kind = states.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
        total = states.new_zeros((), dtype=torch.float32)
        with torch.autocast(kind, enabled=False):
            low, states = weight.to(dtype), states.to(dtype)
            d_states, d_weight = torch.empty_like(states), torch.zeros_like(weight)
            for x, wanted, d_x in zip(
                *(part.split(CrossEntropy.STRETCH) for part in (states, targets[:, None], d_states)), strict=True
            ):
                log_p = F.log_softmax((x @ low.T).float(), dim=-1)
                total -= log_p.gather(1, wanted).sum()
                if any(ctx.needs_input_grad):
                    slope = log_p.exp_()  # of the sum, by the logits: probabilities less one at the target
                    slope.scatter_add_(1, wanted, slope.new_full(wanted.shape, -1.0))
                    slope = slope.to(dtype)
                    torch.mm(slope, low, out=d_x)
                    d_weight += slope.T @ x
        ctx.save_for_backward(d_states, d_weight)
        ctx.tokens = len(targets)
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:  # type: ignore[override]
        d_states, d_weight = ctx.saved_tensors
        slope = slope / ctx.tokens
        return slope * d_states, slope * d_weight, None


class BiLMPreTrained(PreTrainedModel):  # type: ignore[misc]
    config_class = BiLMConfig
    base_model_prefix = "bilm"
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """GPT-2's: normal, what writes into the residual stream smaller the more blocks do."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, Block):
            for last in (module.out, module.down):
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * self.config.num_hidden_layers))


class BiLM(BiLMPreTrained):
    """Both directions; the states of a token are (left-to-right, right-to-left), 2 × hidden_size wide."""

    def __init__(self, config: BiLMConfig):
        super().__init__(config)
        self.forward_lm, self.backward_lm = CausalLM(config), CausalLM(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Int[Tensor, "batch pos"],
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        output_hidden_states: bool = False,
        **_: Any,
    ) -> BaseModelOutput:
        flip = reversal(input_ids, attention_mask)
        left = self.forward_lm.states(input_ids)
        right = self.backward_lm.states(input_ids.gather(1, flip))
        back = flip[..., None].expand_as(right[0])
        wanted = range(len(left)) if output_hidden_states else [len(left) - 1]
        found = tuple(torch.cat((left[i], right[i].gather(1, back)), dim=-1) for i in wanted)
        return BaseModelOutput(last_hidden_state=found[-1], hidden_states=found if output_hidden_states else None)


def reversal(ids: Int[Tensor, "batch pos"], mask: Tensor | None) -> Int[Tensor, "batch pos"]:
    """Positions that reverse each row's text and leave its padding last; applied twice, nothing changes.

    Padding must come after the text for the right-to-left model too, or it would read it first.
    """
    place = torch.arange(ids.shape[1], device=ids.device)[None]
    lengths = torch.full_like(ids[:, :1], ids.shape[1]) if mask is None else mask.sum(1, keepdim=True)
    back = lengths - 1 - place
    return torch.where(back < 0, back + ids.shape[1], back)


class BiLMForTokenClassification(BiLMPreTrained):
    def __init__(self, config: BiLMConfig):
        super().__init__(config)
        self.num_labels = config.num_labels or 2
        self.bilm = BiLM(config)
        self.classifier = nn.Linear(2 * config.hidden_size, self.num_labels)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> TokenClassifierOutput:
        return TokenClassifierOutput(logits=self.classifier(self.bilm(input_ids, attention_mask).last_hidden_state))


AutoConfig.register("bilm", BiLMConfig)
AutoModel.register(BiLMConfig, BiLM)
AutoModelForTokenClassification.register(BiLMConfig, BiLMForTokenClassification)
