"""Text features of items: a frozen LLM's mean-pooled hidden states of each item's text, computed once and cached.

Recommenders that read text (`laser.recommenders.text`) get them as an array. The LLM reads no virtual token and no
instruction, and nothing is trained. A sentence encoder may stand in for the LLM (`sentence_encoder.py`).

Shape suffixes: B batch, T tokens, I catalogue items, H LLM width.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from laser.cli.progress import progress
from laser.config.identity import llm_content, stage_key
from laser.config.schema import Experiment, LLMConfig, PromptConfig
from laser.conversion.source import resolve_llm
from laser.data.batches import inference_batches
from laser.data.dataset import Dataset
from laser.data.prompts import Prompts, item_texts
from laser.errors import UserError
from laser.llm.loading import choose_dtype, embedding_width, load_llm, load_tokenizer
from laser.models.bituning import BiTuning
from laser.models.llm_probe import max_positions, open_llm
from laser.recommenders.sentence_encoder import encode_texts, is_sentence_encoder
from laser.recommenders.text import TextMeans
from laser.storage.cache import make_once

ARTIFACT_VERSION = 2
"""Raised when the computation changes, so that older features are not reused."""
BATCH_TOKENS = 2048
"""Tokens that pass through the LLM at once. So many fit a CPU's caches."""
NAME = "features_IH"


def item_features(
    llm_source: str,
    num_layers: int | None,
    dataset: Dataset,
    cache_dir: Path,
    device: torch.device,
    setting: str = "recommender.text_source",
) -> NDArray[np.float32]:
    """Return the features of all items, from the cache or computed now: float32 [I, H].

    The text of an item is its title and all attributes, as in a prompt (` {title} (brand: …, category: …)`). It is cut
    to the default `prompt.max_item_tokens`.

    Args:
        llm_source: as `llm.source`.
        num_layers: as `llm.num_layers`.
        dataset: holds the items.
        cache_dir: the cache of all artifacts; the file is `features/<key>.safetensors` in it.
        device: where the LLM computes them.
        setting: names the source in messages.

    Raises:
        UserError: there is no such LLM.
    """
    content = llm_content(llm_source, cache_dir)
    key = stage_key("features", ARTIFACT_VERSION, content, num_layers, dataset.fingerprint)
    path = cache_dir / "features" / f"{key}.safetensors"
    make_once(
        path,
        lambda aside: save_file({NAME: _compute(llm_source, num_layers, dataset, cache_dir, device, setting)}, aside),
    )
    return load_file(path)[NAME]


def _compute(
    llm_source: str, num_layers: int | None, dataset: Dataset, cache_dir: Path, device: torch.device, setting: str
) -> NDArray[np.float32]:
    settings = LLMConfig(source=llm_source, num_layers=num_layers)
    try:
        encoder = resolve_llm(llm_source, cache_dir)
        if is_sentence_encoder(encoder):
            return encode_texts(encoder, item_texts(dataset.items, dataset.item_attributes), device)
        directory = open_llm(settings, cache_dir).directory
    except UserError as error:
        raise UserError(str(error).replace("llm.source", setting, 1)) from error
    llm = load_llm(directory, choose_dtype("auto", device), settings, device)
    width = embedding_width(llm)
    mean = BiTuning(width, embedding_std=1.0, representation="mean")  # holds no token, so nothing is drawn
    prompts = Prompts.build(dataset, PromptConfig(), load_tokenizer(directory), cache_dir)
    longest, limit = int(np.diff(prompts.offsets).max()), max_positions(llm.config)
    if limit is not None and longest > limit:
        raise UserError(
            f"{setting}: {llm_source} has {limit} positions, and the longest item text takes {longest} "
            "tokens; name another LLM"
        )
    batches = inference_batches(np.diff(prompts.offsets), BATCH_TOKENS)
    features_IH = np.empty((dataset.num_items, width), dtype=np.float32)
    with progress(batches, "item features", "batch") as steps, torch.inference_mode():
        for items in steps:
            texts = [prompts.item(int(item)) for item in items]
            token_ids_Q = torch.from_numpy(np.concatenate(texts).astype(np.int64)).to(device)
            lengths_B = torch.tensor([len(text) for text in texts], device=device)
            features_BH = mean(llm, None, token_ids_Q, lengths_B)
            features_IH[items] = features_BH.cpu().numpy()
    return features_IH


def features_of(config: Experiment, dataset: Dataset, cache: Path, device: torch.device) -> NDArray[np.float32]:
    """Return the text features that a head's are the components of: float32 [I, H].

    Raises:
        UserError: `head.text_source` is no LLM.
    """
    source, num_layers, setting = _source_of(config)
    return item_features(source, num_layers, dataset, cache, device, setting)


def make_text_means(config: Experiment, dataset: Dataset, cache: Path, device: torch.device) -> Path | None:
    """Find or make the file of a dataset's text features; None if the head reads none."""
    width = config.head.text_width
    if width is None:
        return None
    source, num_layers, _ = _source_of(config)
    key = stage_key("text-means", 1, llm_content(source, cache), num_layers, width, dataset.fingerprint)
    path = cache / "features" / f"{key}.safetensors"
    make_once(path, lambda aside: TextMeans.of(features_of(config, dataset, cache, device), width, 1.0).write(aside))
    return path


def _source_of(config: Experiment) -> tuple[str, int | None, str]:
    """Return what reads the texts of a head, how many of its blocks, and the setting that names it."""
    if config.head.text_source is not None:
        return config.head.text_source, None, "head.text_source"
    return config.llm.source, config.llm.num_layers, "llm.source"
