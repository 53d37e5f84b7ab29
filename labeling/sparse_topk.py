"""A TopK SAE for sae-lens's trainer whose step costs one dense product instead of five.

Only `k` of `d_sae` latents are active on a token, so everything but the encoder's forward pass is a
product with a sparse matrix of `batch · k` entries. sae-lens has a sparse mode, but its backward
pass does not run on a CPU. Gradients are those of the dense step (tests compare the two).
"""

import warnings
from typing import Any

import torch
from jaxtyping import Float, Int
from sae_lens import TopKTrainingSAE
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from torch import Tensor

# Two products and a constructor are all we use of it, and the tests compare their results.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
GROUPS = 16  # columns that share a group maximum; see `topk_columns`


def topk_columns(x: Float[Tensor, "tok d_sae"], k: int) -> Int[Tensor, "tok k"]:
    """Indices of each row's `k` largest values; exact, and faster than `torch.topk` on wide rows.

    The k largest values lie within the k groups with the largest maxima, so only those are sorted.
    """
    rows, width = x.shape
    if width % GROUPS or width // GROUPS < 2 * k:
        return x.topk(k, dim=1, sorted=False).indices
    groups = x.view(rows, GROUPS, width // GROUPS)  # group g: columns g, g + width/16, …
    best = groups.amax(1).topk(k, dim=1, sorted=False).indices  # (tok, k)
    candidates = groups.gather(2, best[:, None].expand(-1, GROUPS, -1))  # (tok, 16, k)
    inner = candidates.flatten(1).topk(k, dim=1, sorted=False).indices
    return (inner // k) * (width // GROUPS) + best.gather(1, inner % k)


class _Reconstruct(torch.autograd.Function):
    """Σ_j relu(x·W_enc_j + b_j) W_dec_j + b_dec over each token's top latents, with sparse gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_enc: Tensor, b_enc: Tensor, w_dec: Tensor, b_dec: Tensor, center: bool, k: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        centred = x - b_dec if center else x
        pre = torch.addmm(b_enc, centred, w_enc)  # (tok, d_sae)
        norms = w_dec.norm(dim=1)
        columns = topk_columns(pre * norms, k)
        acts = pre.gather(1, columns).relu_()
        ctx.save_for_backward(centred, w_enc, w_dec, columns, acts)
        ctx.center = center
        out = torch.sparse.mm(_rows(columns, acts, len(b_enc)), w_dec) + b_dec
        ctx.mark_non_differentiable(columns)
        return out, columns, acts * norms[columns]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]  # (tok, d_in)
        centred, w_enc, w_dec, columns, acts = ctx.saved_tensors
        d_sae = len(w_dec)
        order = columns.flatten().argsort()
        d_acts = torch.empty_like(acts)
        for begin in range(0, len(grad), 128):  # gathered rows of W_dec that stay in the cache
            rows = slice(begin, begin + 128)
            d_acts[rows] = torch.bmm(w_dec[columns[rows]], grad[rows, :, None]).squeeze(2)
        d_acts *= acts > 0
        d_dec = torch.sparse.mm(_columns(columns, acts, order, d_sae), grad)
        d_enc = torch.sparse.mm(_columns(columns, d_acts, order, d_sae), centred)  # (d_sae, d_in)
        d_bias = torch.zeros(d_sae).index_add_(0, columns.flatten(), d_acts.flatten())
        d_center = grad.sum(0)
        if ctx.center:
            d_center -= w_enc @ d_bias
        return None, d_enc.t(), d_bias, d_dec, d_center, None, None


def _rows(columns: Int[Tensor, "tok k"], values: Float[Tensor, "tok k"], d_sae: int) -> Tensor:
    """Sparse (tok, d_sae)."""
    tokens, k = columns.shape
    starts = torch.arange(0, tokens * k + 1, k)
    return torch.sparse_csr_tensor(starts, columns.flatten(), values.flatten(), (tokens, d_sae), check_invariants=False)


def _columns(columns: Int[Tensor, "tok k"], values: Float[Tensor, "tok k"], order: Tensor, d_sae: int) -> Tensor:
    """The same transposed: sparse (d_sae, tok). `order` sorts the entries by column."""
    tokens, k = columns.shape
    starts = torch.zeros(d_sae + 1, dtype=torch.long)
    torch.cumsum(torch.bincount(columns.flatten(), minlength=d_sae), 0, out=starts[1:])
    return torch.sparse_csr_tensor(starts, order // k, values.flatten()[order], (d_sae, tokens), check_invariants=False)


class SparseTopKTrainingSAE(TopKTrainingSAE):  # type: ignore[misc]  # sae-lens exports no types
    """sae-lens's TopK training SAE with the sparse step; saves and loads as the same architecture."""

    def initialize_weights(self) -> None:
        super().initialize_weights()
        # Kept as the transpose of a contiguous (d_sae, d_in): the layout its sparse gradient comes in.
        self.W_enc.data = self.W_enc.data.t().contiguous().t()

    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        state_dict["W_enc"] = state_dict["W_enc"].contiguous()
        super().process_state_dict_for_saving_inference(state_dict)

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        x = step_input.sae_in
        cfg = self.cfg
        out, columns, acts = _Reconstruct.apply(  # type: ignore[no-untyped-call]
            x, self.W_enc, self.b_enc, self.W_dec, self.b_dec, cfg.apply_b_dec_to_input, cfg.k
        )
        loss = mse = (out - x).pow(2).sum(1).mean()
        losses = {"mse_loss": mse}
        dead = step_input.dead_neuron_mask
        if dead is not None and bool(dead.any()):
            losses["auxiliary_reconstruction_loss"] = aux = self._revive(x, (x - out).detach(), dead)
            loss = mse + aux
        with torch.no_grad():
            tokens = torch.arange(len(x)).repeat_interleave(cfg.k)
            sparse = torch.sparse_coo_tensor(
                torch.stack([tokens, columns.flatten()]), acts.flatten(), (len(x), cfg.d_sae), check_invariants=False
            )
        return TrainStepOutput(
            sae_in=x, sae_out=out, feature_acts=sparse, hidden_pre=acts, loss=loss, losses=losses, metrics={}
        )

    def _revive(self, x: Float[Tensor, "tok d_in"], residual: Float[Tensor, "tok d_in"], dead: Tensor) -> Tensor:
        """sae-lens's auxiliary loss, computed on the dead latents alone: they learn what the others miss."""
        which = dead.nonzero().squeeze(1)
        k = min(x.shape[1] // 2, len(which))
        centred = x - self.b_dec if self.cfg.apply_b_dec_to_input else x
        pre = centred @ self.W_enc[:, which] + self.b_enc[which]
        norms = self.W_dec[which].norm(dim=1)
        top = (pre * norms).topk(k, dim=1, sorted=False).indices
        acts = torch.zeros_like(pre).scatter(1, top, pre.gather(1, top))  # not cut at 0: the dead need a gradient
        error = (acts @ self.W_dec[which] - residual).pow(2).sum(1).mean()
        return self.cfg.aux_loss_coefficient * min(len(which) / (x.shape[1] // 2), 1.0) * error
