"""Item features by a sentence encoder: a small model that reads in both directions, made for comparing texts.

It is a folder in the layout of sentence-transformers: config, safetensors, tokenizer, and `1_Pooling/config.json`. Of
that layout, the mean over a text's tokens is known here. `transformers` runs it.

Shape suffixes: B batch, T tokens, I items, H encoder width.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from laser.cli.progress import progress
from laser.errors import UserError

POOLING = Path("1_Pooling", "config.json")
MAX_TOKENS = 128
"""Most tokens of a text, as the default `prompt.max_item_tokens`; the rest is cut."""
BATCH = 64


def is_sentence_encoder(directory: Path) -> bool:
    """Tell whether a model's folder says how its tokens become one vector."""
    return (directory / POOLING).is_file()


def encode_texts(directory: Path, texts: Sequence[str], device: torch.device) -> NDArray[np.float32]:
    """Return the mean of the last hidden states of each text's tokens: float32 [I, H].

    Raises:
        UserError: the folder asks for something else than the mean, or holds no encoder.
    """
    from transformers import AutoModel, AutoTokenizer

    pooling = json.loads((directory / POOLING).read_text(encoding="utf-8"))
    if not pooling.get("pooling_mode_mean_tokens"):
        chosen = [name for name, on in pooling.items() if name.startswith("pooling_mode") and on is True]
        raise UserError(
            f"recommender.text_source: {directory} pools by {', '.join(chosen) or 'nothing'}, wanted "
            "pooling_mode_mean_tokens; name another sentence encoder"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
        model = AutoModel.from_pretrained(directory, dtype=torch.float32).to(device).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"recommender.text_source: {directory}: {error}; name a sentence encoder's folder") from error
    longest = min(MAX_TOKENS, model.config.max_position_embeddings)
    tokens = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
    order = np.argsort([len(ids) for ids in tokens], kind="stable")
    features_IH = np.empty((len(texts), model.config.hidden_size), np.float32)
    batches = np.split(order, range(BATCH, len(order), BATCH))
    with progress(batches, "item features", "batch") as steps, torch.inference_mode():
        for rows in steps:
            padded = tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="pt").to(device)
            states_BTH = model(**padded).last_hidden_state
            mask_BT1 = padded["attention_mask"][..., None]
            features_IH[rows] = ((states_BTH * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1)).cpu().numpy()
    return features_IH
