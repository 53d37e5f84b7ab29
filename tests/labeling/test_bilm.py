"""The biLM: what each direction may see, positions, padding, and the folder it comes in."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from labeling.bilm import BiLM, BiLMConfig, BiLMForTokenClassification, CrossEntropy, reversal, rotate, rotation

CONFIG = BiLMConfig(vocab_size=50, num_hidden_layers=2, hidden_size=16, num_attention_heads=2)


@pytest.fixture(scope="module")
def model() -> BiLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BiLM(CONFIG).eval()
        for parameter in model.parameters():  # at GPT-2's small start everything looks alike
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def states(model: BiLM, ids: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(left-to-right, right-to-left) states, each (batch, pos, 16)."""
    with torch.no_grad():
        left, right = model(ids, mask).last_hidden_state.chunk(2, dim=-1)
    return left, right


def test_each_direction_sees_its_own_side_and_nothing_of_the_other(model: BiLM) -> None:
    ids = torch.arange(10)[None]
    changed = ids.clone()
    changed[0, 5] = 40
    (left, right), (left_changed, right_changed) = states(model, ids), states(model, changed)
    moved_left = (left != left_changed).any(-1)[0].tolist()
    moved_right = (right != right_changed).any(-1)[0].tolist()
    assert moved_left == [False] * 5 + [True] * 5
    assert moved_right == [True] * 6 + [False] * 4


def test_the_right_to_left_half_is_the_same_model_on_reversed_text_flipped_back(model: BiLM) -> None:
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        expected = model.backward_lm.states(ids.flip(1))[-1].flip(1)
    torch.testing.assert_close(states(model, ids)[1], expected)


def test_with_the_directions_exchanged_reversed_text_gives_reversed_states(model: BiLM) -> None:
    mirrored = BiLM(CONFIG).eval()
    mirrored.forward_lm.load_state_dict(model.backward_lm.state_dict())
    mirrored.backward_lm.load_state_dict(model.forward_lm.state_dict())
    ids = torch.arange(3, 12)[None]
    left, right = states(model, ids)
    left_mirrored, right_mirrored = states(mirrored, ids.flip(1))
    torch.testing.assert_close(left_mirrored, right.flip(1))
    torch.testing.assert_close(right_mirrored, left.flip(1))


def test_padding_changes_nothing_in_either_direction(model: BiLM) -> None:
    ids = torch.tensor([[7, 8, 9, 0, 0], [1, 2, 3, 4, 5]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    padded, alone = states(model, ids, mask), states(model, ids[:1, :3])
    for found, expected in zip(padded, alone, strict=True):
        torch.testing.assert_close(found[:1, :3], expected)


def test_reversal_keeps_padding_last_and_undoes_itself() -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    flip = reversal(torch.zeros(1, 5, dtype=torch.long), mask)
    assert flip[0, :3].tolist() == [2, 1, 0] and set(flip[0, 3:].tolist()) == {3, 4}
    assert flip.gather(1, flip).tolist() == [[0, 1, 2, 3, 4]]


def test_positions_turn_along_the_sequence_and_not_along_the_heads() -> None:
    x = torch.ones(1, 3, 4, 8)  # (batch, head, pos, size)
    turned = rotate(x, rotation(4, 8, 10_000.0, x))
    torch.testing.assert_close(turned[:, 0], turned[:, 2])  # every head alike
    torch.testing.assert_close(turned[:, :, 0], x[:, :, 0])  # no turn at the start
    assert not torch.allclose(turned[:, :, 1], turned[:, :, 2])


def test_attention_scores_depend_on_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(8, generator=generator).expand(1, 1, 12, 8) for _ in range(2))
    turn = rotation(12, 8, 10_000.0, q)
    scores = rotate(q, turn) @ rotate(k, turn).transpose(-1, -2)  # (1, 1, 12, 12)
    torch.testing.assert_close(scores[0, 0, 5, 2], scores[0, 0, 10, 7], atol=1e-5, rtol=1e-5)
    assert abs(float(scores[0, 0, 5, 2] - scores[0, 0, 5, 4])) > 1e-3


def test_one_layers_states_are_those_of_the_model_cut_there(model: BiLM) -> None:
    ids = torch.arange(6)[None]
    with torch.no_grad():
        middle = model(ids, output_hidden_states=True).hidden_states[1]
        shallow = BiLM(BiLMConfig(vocab_size=50, num_hidden_layers=1, hidden_size=16, num_attention_heads=2)).eval()
        shallow.load_state_dict({k: v for k, v in model.state_dict().items() if ".blocks.1." not in k})
        torch.testing.assert_close(shallow(ids).last_hidden_state, middle)


@pytest.mark.parametrize("tokens", [1, 256, 700])
def test_the_loss_by_stretches_is_cross_entropy_and_so_are_its_gradients(tokens: int) -> None:
    draw = torch.Generator().manual_seed(tokens)
    states = torch.randn(tokens, 16, generator=draw, requires_grad=True)
    weight = torch.randn(50, 16, generator=draw, requires_grad=True)
    targets = torch.randint(0, 50, (tokens,), generator=draw)
    expected = torch.nn.functional.cross_entropy(states @ weight.T, targets)
    found = CrossEntropy.apply(states, weight, targets)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(
        *(torch.autograd.grad(3 * loss, (states, weight)) for loss in (found, expected)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_a_saved_backbone_opens_as_itself_and_under_a_head(model: BiLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    ids = torch.arange(6)[None]
    again = AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(states(again, ids), states(model, ids))
    under_head = BiLMForTokenClassification.from_pretrained(tmp_path, num_labels=2).eval()
    torch.testing.assert_close(states(under_head.bilm, ids), states(model, ids))
    assert under_head(ids).logits.shape == (1, 6, 2)
