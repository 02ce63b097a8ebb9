"""Makes the artifacts of an experiment, before any worker starts.

Each artifact is cached under a key of its own settings and inputs, so a sweep over K and L makes it once.
"""

from dataclasses import replace
from pathlib import Path

from safetensors.numpy import save_file
from transformers import PretrainedConfig

from laser.config.identity import stage_key
from laser.config.schema import READS_USER, Experiment
from laser.data.dataset import Dataset
from laser.data.examples import Examples
from laser.data.prompts import PromptFiles
from laser.data.selected import select_examples
from laser.errors import UserError
from laser.llm.late_text import make_texts
from laser.llm.loading import embedding_std, eos_embedding, eos_token_id, llm_config, load_tokenizer
from laser.llm.packed.architectures import why_not_packed
from laser.models.llm_probe import check_length, open_llm
from laser.recommenders.base import SequentialRecommender
from laser.recommenders.encodings import make_encodings
from laser.recommenders.pretraining import pretrained_recommender, pretraining_device
from laser.recommenders.storage import content_hash, load_recommender
from laser.recommenders.text_features import make_text_means
from laser.scoring.scored import chosen_in
from laser.sources.prepare import prepare_dataset
from laser.storage.cache import make_once
from laser.training.artifacts import Artifacts
from laser.training.extensions.two_sided import check_negatives
from laser.training.inputs import ITEM_EMBEDDINGS, Inputs, open_inputs
from laser.training.model import checkpoint_bytes
from laser.training.selection import scored_users


def make_artifacts(config: Experiment, recommender_directory: Path | None = None) -> Artifacts:
    """Find the artifacts of an experiment and make the missing ones.

    Args:
        config: the experiment.
        recommender_directory: holds a trained recommender that replaces the one of `config.recommender`.

    Raises:
        UserError: data, settings or the LLM's source are bad, or the dataset leaves nothing to train or validate on.
    """
    cache = Path(config.cache_dir).expanduser().absolute()
    dataset = prepare_dataset(config.data, cache)
    opened = open_llm(config.loaded_llm, cache)
    llm_directory, remote_code = opened.directory, config.llm.trust_remote_code
    llm = llm_config(llm_directory, config.llm.num_layers, remote_code)
    if config.bituning.representation == "eos":
        eos_token_id(llm)
    if config.warms_up_head:
        _check_head_can_be_prepared(config, llm)
    users = scored_users(config, dataset, prepare_inputs)
    examples = select_examples(dataset, config, chosen_in(users))
    _check_enough(config, examples)
    if config.training.stage0_epochs and config.training.negatives == "sampled":
        check_negatives(examples["train"], dataset.num_items)
    first_token_H = eos_embedding(llm_directory, remote_code) if config.bituning.init == "eos" else None
    tokenizer = load_tokenizer(llm_directory)
    prompts = item_prompts = PromptFiles.make(dataset, config.prompt, tokenizer, cache)
    if config.prompt.item_instruction is not None:
        item_prompts = prompts.with_instruction(config.prompt.item_instruction, tokenizer)
    user_words, item_words = prompts.open(), item_prompts.open()
    words = {split: item_words if split == "items" else user_words for split in examples}
    lengths = [words[split].lengths(part) for split, part in examples.items()]
    check_length(config, max(int(part.max()) for part in lengths if len(part)), llm)
    device = pretraining_device(config.training.use_gpu)
    recommender = None
    if config.uses_recommender and recommender_directory is None:
        known = dataset.trained_on(config.training.train_fraction, config.training.seed)
        pretrained = pretrained_recommender(config.recommender, known, cache, test=False, device=device)
        recommender, recommender_directory = pretrained.model, pretrained.directory
    elif recommender_directory is not None:
        recommender = load_recommender(recommender_directory)
    artifacts = Artifacts(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        dataset_directory=dataset.path.absolute(),
        num_items=dataset.num_items,
        llm_directory=llm_directory.absolute(),
        llm_content=opened.content,
        prompts=prompts,
        item_prompts=item_prompts,
        embedding_std=embedding_std(llm_directory, remote_code),
        first_token=None if first_token_H is None else tuple(first_token_H.tolist()),
        recommender=None if recommender_directory is None else recommender_directory.absolute(),
        users=users,
        digests={split: part.digest() for split, part in examples.items()},
    )
    if recommender is not None:
        assert recommender_directory is not None
        content = content_hash(recommender_directory)
        artifacts = replace(
            artifacts,
            recommender_width=recommender.hidden_size,
            recommender_blocks=recommender.blocks,
            item_embeddings=_item_embeddings(recommender, content, dataset, cache / "encodings"),
            encodings=_encodings(recommender, content, dataset, examples, cache / "encodings"),
        )
    texts = make_texts(config, llm, llm_directory, opened.content, examples, words, device)
    artifacts = replace(artifacts, text_means=make_text_means(config, dataset, cache, device))
    return replace(artifacts, texts=texts, checkpoint_bytes=checkpoint_bytes(config, artifacts))


def prepare_inputs(config: Experiment, recommender_directory: Path | None = None) -> Inputs:
    """Make the missing artifacts and open all of them in this process."""
    return open_inputs(config, make_artifacts(config, recommender_directory))


def _encodings(
    recommender: SequentialRecommender, content: str, dataset: Dataset, examples: dict[str, Examples], directory: Path
) -> dict[str, Path]:
    """Encode the histories of each split with the recommender and return the files.

    Training users are encoded as if the recommender had not been fitted to them.
    """
    encodings = {}
    for split, part in examples.items():
        own_sequence = dataset.train_items if split in ("train", "prefixes") else None
        key = stage_key("encodings", 4, content, dataset.fingerprint, own_sequence is not None, part.digest())
        encodings[split] = make_encodings(recommender, part, directory, key, own_sequence)
    return encodings


def _item_embeddings(recommender: SequentialRecommender, content: str, dataset: Dataset, directory: Path) -> Path:
    """Write the recommender's item embeddings and return their file."""
    place = directory / f"{stage_key('items', 1, content, dataset.fingerprint)}.safetensors"
    make_once(place, lambda aside: save_file({ITEM_EMBEDDINGS: recommender.item_embeddings().copy()}, aside))
    return place


def _check_head_can_be_prepared(config: Experiment, llm: PretrainedConfig) -> None:
    """Refuse to prepare the head, unless a packed LLM is read at a suffix after a prefix that all histories share."""
    setting = "warm_start.epochs" if config.warm_start.epochs else "head.standardise"
    off = "set warm_start.epochs to 0 and head.standardise to false"
    reason = why_not_packed(llm)
    if config.llm.implementation == "transformers":
        reason = "llm.implementation is transformers"
    if reason is not None:
        raise UserError(f"{setting}: this {llm.model_type} cannot be read packed ({reason}); {off}, or change that")
    if config.bituning.representation != "suffix":
        raise UserError(
            f'{setting}: bituning.representation "{config.bituning.representation}" has no suffix to read at: set it '
            f"to suffix, or {off}"
        )
    # Weights to start from are looked at once the model's shapes are known (`training.run.transfer`).
    if config.bituning.prefix in READS_USER and config.bituning.init != "eos" and config.training.start_from is None:
        raise UserError(
            f"{setting}: the prefix differs from user to user; set bituning.init to eos, or "
            f"bituning.prefix to free or none, or {off}"
        )


def _check_enough(config: Experiment, examples: dict[str, Examples]) -> None:
    for split, name in (("train", "training"), ("val", "validation")):
        if not len(examples[split]):
            raise UserError(
                f"data.path: {config.data.path} has no {name} example: users need at least 3 interactions "
                "(4 to train on); lower data.k_core or data.min_rating, or take more data"
            )
