"""Tiny models for the checkpoint tests."""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
)


class Plain(nn.Module):
    """A plain module with a tied weight, a buffer, a view, and a weight that is not contiguous."""

    def __init__(self, width=4):
        super().__init__()
        self.embed = nn.Embedding(6, width)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, 6, bias=False)
        self.head.weight = self.embed.weight
        self.hidden.weight = nn.Parameter(torch.randn(width, width).t())
        self.register_buffer("scale", torch.randn(2, width))
        self.register_buffer("first_scale", self.scale[0])


def gpt2(seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2}
    return GPT2LMHeadModel(GPT2Config(**{**sizes, **options}))


def bert(seed=0, **options):
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "vocab_size": 20,
    }
    return BertForSequenceClassification(BertConfig(**{**sizes, **options}))


def mixtral(seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    more = {"intermediate_size": 8, "vocab_size": 20, "num_local_experts": 2}
    return MixtralForCausalLM(MixtralConfig(**{**sizes, **more, **options}))


def plain(seed=0, **options):
    torch.manual_seed(seed)
    return Plain(**options)


def same_weights(first, second):
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
