"""A token classifier whose head reads several layers of a backbone at once, joined per token.

Early layers know the word, late ones the passage; a linear probe on both may beat either. Plain
transformers has no such head, so a folder with one opens with `import labeling.layers` first, or
through its ONNX file.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

import labeling.bilm  # noqa: F401  registers a backbone


class LayersConfig(PreTrainedConfig):  # type: ignore[misc]
    model_type = "tokensieve-layers"

    def __init__(self, backbone: dict[str, Any] | None = None, layers: Sequence[int] = (), **kwargs: Any):
        self.backbone, self.layers = backbone or {}, list(layers)
        self.num_hidden_layers = self.backbone.get("num_hidden_layers", 0)
        self.max_position_embeddings = self.backbone.get("max_position_embeddings")
        super().__init__(**kwargs)


class LayersForTokenClassification(PreTrainedModel):  # type: ignore[misc]
    config_class = LayersConfig
    base_model_prefix = "backbone"
    _supports_sdpa = True

    def __init__(self, config: LayersConfig):
        super().__init__(config)
        self.num_labels = config.num_labels or 2
        inner = AutoConfig.for_model(**config.backbone)
        # Its token-classification form is what leaves out poolers and other heads that are not used.
        self.backbone = AutoModelForTokenClassification.from_config(inner).base_model
        width = inner.hidden_size * (2 if inner.model_type == "bilm" else 1)
        self.classifier = nn.Linear(width * len(config.layers), self.num_labels)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> TokenClassifierOutput:
        found = self.backbone(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        states = torch.cat([found.hidden_states[layer] for layer in self.config.layers], dim=-1)
        return TokenClassifierOutput(logits=self.classifier(states))


AutoConfig.register("tokensieve-layers", LayersConfig)
AutoModelForTokenClassification.register(LayersConfig, LayersForTokenClassification)


def joined(model: Any, layers: Sequence[int]) -> LayersForTokenClassification:
    """A token classifier's backbone under a head that reads these layers (1 is the first block's output)."""
    inner = model.config.to_dict()
    whole = LayersForTokenClassification(LayersConfig(backbone=inner, layers=layers, num_labels=2))
    whole.backbone.load_state_dict(model.base_model.state_dict())
    return whole.to(model.device).eval()
