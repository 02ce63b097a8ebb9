"""The peer of suite train: HF Trainer and peft's prompt tuning, combined as their documentation does.

A batch is padded to its longest history. The hidden state of the last real token is the representation, and the loss is
the same as ours.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from laser.benchmarks.measure import Work
from laser.config.compose import with_overrides
from laser.config.jobs import BenchmarkJob
from laser.data.batches import pad_right
from laser.engine.losses import item_scores
from laser.errors import UserError
from laser.llm.loading import choose_dtype, load_llm
from laser.training.inputs import Inputs


class PromptTuned(nn.Module):
    """A decoder under peft's prompt tuning, with the contrastive loss over the catalogue."""

    item_embeddings_IH: Tensor

    def __init__(self, decoder: Any, item_embeddings_IH: Tensor, temperature: float) -> None:
        super().__init__()
        self.decoder, self.temperature = decoder, temperature
        self.register_buffer("item_embeddings_IH", item_embeddings_IH, persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        hidden_BSH = self.decoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        prefix = hidden_BSH.shape[1] - input_ids.shape[1]
        rows_B = torch.arange(len(labels), device=labels.device)
        representation_BH = hidden_BSH[rows_B, prefix + attention_mask.sum(dim=1) - 1]
        scores_BI = item_scores(representation_BH, self.item_embeddings_IH)
        return {"loss": nn.functional.cross_entropy(scores_BI / self.temperature, labels)}


class PeerTrainer:
    """Epochs of HF Trainer over the sampled histories.

    Raises:
        UserError: peft is not installed.
    """

    def __init__(self, job: BenchmarkJob, inputs: Inputs, item_embeddings_IH: Tensor, device: torch.device) -> None:
        try:
            from peft import PromptTuningConfig, TaskType, get_peft_model
        except ImportError as error:
            raise UserError(f"suite: {job.suite} needs the peer's package ({error}); pip install peft") from error
        settings = with_overrides(job, {"llm.implementation": "transformers"}).llm
        llm = load_llm(inputs.artifacts.llm_directory, choose_dtype(job.llm.dtype, device), settings, device)
        prompt = PromptTuningConfig(
            task_type=TaskType.FEATURE_EXTRACTION, num_virtual_tokens=job.mformer.num_virtual_tokens
        )
        self.model = PromptTuned(get_peft_model(llm, prompt), item_embeddings_IH, job.training.temperature).to(device)
        self.job, self.device = job, device
        histories = inputs.train
        self.lengths = histories.lengths + job.mformer.num_virtual_tokens
        self.examples = [
            (histories.prompts.tokens(histories.examples.history(i)), int(histories.examples.targets[i]))
            for i in range(len(histories))
        ]
        self.losses: list[float] = []

    def padded_tokens(self, batch_size: int) -> int:
        """Return the tokens of the batch that has the longest history, padding included."""
        return int(self.lengths.max()) * batch_size

    def padded_tokens_of_epoch(self, batch_size: int) -> int:
        """Return the tokens of all batches of an epoch in a random order, padding included."""
        order = np.random.default_rng(0).permutation(self.lengths)
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        return int(sum(batch.max() * len(batch) for batch in batches))

    def epoch(self, batch_size: int) -> Work:
        """Return one epoch of `Trainer.train()`."""
        from transformers import PrinterCallback, Trainer, TrainingArguments

        arguments = TrainingArguments(
            output_dir=f"{self.job.cache_dir}/benchmarks/peer",
            per_device_train_batch_size=batch_size,
            num_train_epochs=1,
            learning_rate=self.job.training.token_learning_rate or self.job.training.learning_rate,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=self.device.type == "cpu",
            seed=self.job.training.seed,
            label_names=["labels"],
        )

        def train() -> None:
            trainer = Trainer(self.model, arguments, data_collator=_collate, train_dataset=self.examples)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            self.losses += [round(row["loss"], 4) for row in trainer.state.log_history if "loss" in row]

        return train


def _collate(examples: list[tuple[np.ndarray, int]]) -> dict[str, Tensor]:
    token_ids, mask = pad_right([tokens for tokens, _ in examples], 0)
    return {
        "input_ids": torch.from_numpy(token_ids),
        "attention_mask": torch.from_numpy(mask).long(),
        "labels": torch.tensor([target for _, target in examples]),
    }
