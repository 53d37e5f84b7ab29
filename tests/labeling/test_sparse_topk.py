import pytest
import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput

from labeling.sparse_topk import SparseTopKTrainingSAE, topk_columns


@pytest.mark.parametrize("width", [96, 100, 640])
def test_columns_are_those_of_topk(width: int) -> None:
    x = torch.randn(50, width, generator=torch.Generator().manual_seed(1))
    assert torch.equal(topk_columns(x, 7).sort(1)[0], x.topk(7, dim=1).indices.sort(1)[0])


@pytest.mark.parametrize("dead", [0, 20])
@pytest.mark.parametrize("center", [True, False])
def test_loss_and_gradients_are_those_of_sae_lens(dead: int, center: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(40, 12, generator=generator)
    settings = TopKTrainingSAEConfig(
        d_in=12, d_sae=160, k=4, dtype="float32", device="cpu", apply_b_dec_to_input=center
    )
    sparse, dense = SparseTopKTrainingSAE(settings), TopKTrainingSAE(settings)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    sparse.load_state_dict(dense.state_dict())
    mask = torch.arange(160) < dead
    for sae in (sparse, dense):
        output = sae.training_forward_pass(
            TrainStepInput(sae_in=x, coefficients={}, dead_neuron_mask=mask, n_training_steps=0, is_logging_step=False)
        )
        output.loss.backward()
        sae.output = output
    torch.testing.assert_close(sparse.output.loss, dense.output.loss)
    torch.testing.assert_close(sparse.output.feature_acts.to_dense(), dense.output.feature_acts)
    for name, parameter in dense.named_parameters():
        torch.testing.assert_close(dict(sparse.named_parameters())[name].grad, parameter.grad, msg=name)
