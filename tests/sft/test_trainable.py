"""The model that the warm-up trains, as transformers loads it."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.models.folders import random_model
from pipeline.run.compose import compose
from stages.sft import trainable


@pytest.mark.parametrize(("setting", "runs"), [("true", 2), ("false", 1)])
def test_layers_run_again_where_that_is_asked_for_and_drop_nothing(tmp_path, setting, runs):
    """A loaded model is in evaluation mode, in which `gradient_checkpointing_enable` has no effect."""
    settings = compose(["stage=sft", "model=tiny", f"sft.gradient_checkpointing={setting}"])
    made = random_model(settings.model, settings.model.vocab_size, {}, seed=1)
    made.config.attention_dropout = 0.5
    made.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="sdpa")
    model = trainable(loaded, settings.sft)
    counted, losses = [], []
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: counted.append(1))
    for _ in range(2):
        tokens = torch.arange(16)[None]
        model.lm_head.labels = tokens
        losses.append(model(tokens).logits)
    losses[0].backward()
    assert len(counted) == 1 + runs
    assert losses[0].equal(losses[1])
