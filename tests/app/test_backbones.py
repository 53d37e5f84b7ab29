"""The backbones a page offers, and the one in the repository."""

import pytest
import torch
from transformers import AutoModel

import labeling.bilm  # noqa: F401  registers the model
from app.backbones import DEFAULT, SHIPPED, known, located
from labeling.artifacts import verify
from labeling.pretraining import losses
from labeling.references import load_tokenizer

BILM = SHIPPED / "bilm-cpu"


def test_the_shipped_bilm_is_known_by_name_beside_the_default(settings):
    assert list(known(settings)) == [DEFAULT, "bilm-cpu"]
    assert located(settings, "bilm-cpu") == str(BILM)
    assert located(settings, "someone/an-encoder") == "someone/an-encoder"


def test_the_shipped_bilm_is_whole_and_has_learned_both_ways():
    assert verify(BILM, "backbone")["info"]["parameters_one_direction"] < 6e6
    model, tokenizer = AutoModel.from_pretrained(BILM, dtype=torch.float32).eval(), load_tokenizer(str(BILM))
    text = "The patient was treated with antibiotics for an infection of the lung. " * 4
    ids = torch.tensor([tokenizer(text, add_special_tokens=False).input_ids])
    shuffled = ids[:, torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        sense, nonsense = (losses(model, rows, tokenizer.eos_token_id) for rows in (ids, shuffled))
    assert all(float(a) + 1 < float(b) for a, b in zip(sense, nonsense, strict=True))


@pytest.mark.parametrize("name", ["../secret", "/etc"])
def test_a_name_that_is_no_backbone_is_left_as_it_is(settings, name):
    assert located(settings, name) == name
