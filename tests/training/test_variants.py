"""Each variant of the model and of the training takes a real step: the right weights move, and only these."""

from pathlib import Path

import numpy as np
import pytest
import torch

from laser.config.compose import validate, with_overrides
from laser.config.schema import Experiment, LLMConfig, MFormerConfig, TrainingConfig
from laser.engine.base import Batch, parameter_groups
from laser.engine.plain import PlainEngine
from laser.errors import UserError
from laser.models.laser import Laser, build_laser
from laser.models.llm import load_llm, load_tokenizer
from laser.training.extensions.alignment import align, text_targets
from laser.training.extensions.two_sided import TwoSidedStep
from laser.training.inputs import Inputs, prepare_inputs
from laser.training.loop import catalogue_step, train_epoch
from laser.training.model import build_plain
from laser.training.plain import train_here
from laser.training.run.checkpoint import latest_checkpoint, read_checkpoint
from laser.training.run.transfer import check_start
from laser.training.schedule import Schedule
from laser.training.step import StepResult, training_step

CPU = torch.device("cpu")
WIDTH, LENGTH = 32, 4
BASE = Experiment(
    mformer=MFormerConfig(num_experts=3, num_virtual_tokens=LENGTH, num_layers=2, hidden_size=32, num_heads=4),
    training=TrainingConfig(learning_rate=1e-2, batch_size=12),
)


def build(llm_directory: Path, implementation: str = "packed", **overrides: object) -> tuple[Laser, Experiment]:
    config = with_overrides(BASE, {name.replace("__", "."): value for name, value in overrides.items()})
    settings = LLMConfig.model_validate({"implementation": implementation, "compile": False})
    llm = load_llm(llm_directory, torch.float32, settings, CPU)
    return build_laser(config, llm, recommender_width=8, embedding_std=0.1), config


def batch(size: int = 12, width: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(3)
    lengths_B = torch.randint(1, 30, (size,), generator=generator)
    mask_BT = torch.arange(30) < lengths_B[:, None]
    return Batch(
        token_ids_BT=torch.randint(1, 250, (size, 30), generator=generator) * mask_BT,
        token_mask_BT=mask_BT,
        encoding_BNC=3 * torch.randn(size, 5, width, generator=generator),
        encoding_mask_BN=torch.arange(5) < torch.randint(1, 6, (size, 1), generator=generator),
        targets_B=torch.randint(0, 20, (size,), generator=generator),
        weights_B=torch.ones(size),
        num_tokens=int(mask_BT.sum()),
    )


def step(laser: Laser, config: Experiment, width: int = 8) -> tuple[StepResult, set[str]]:
    """One step over a batch of 12; the names of the weights that moved. The LLM keeps its bits."""
    before = {name: weight.clone() for name, weight in laser.state_dict().items()}
    items_IH = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(4))
    engine = PlainEngine(laser, config.training, CPU)
    result = training_step(engine, [batch(width=width)], items_IH, config.training, 1.0)
    moved = {name for name, weight in laser.state_dict().items() if not torch.equal(weight, before[name])}
    assert torch.isfinite(torch.tensor(result.contrastive))
    assert not [name for name in moved if name.startswith("llm.")]
    assert all(parameter.grad is None for parameter in laser.llm.parameters())
    return result, moved


@pytest.mark.parametrize("implementation", ["packed", "transformers"])
@pytest.mark.parametrize(
    ("prefix", "representation", "trained"),
    [
        ("free", "suffix", {"bituning.prefix": LENGTH * WIDTH, "bituning.suffix": WIDTH}),
        ("free", "mean", {"bituning.prefix": LENGTH * WIDTH}),
        ("free", "eos", {"bituning.prefix": LENGTH * WIDTH}),
        ("none", "suffix", {"bituning.suffix": WIDTH}),
    ],
)
def test_without_mformer_the_virtual_tokens_alone_are_trained(
    tiny_llm, implementation, prefix, representation, trained
):
    laser, config = build(
        tiny_llm,
        implementation,
        recommender__type="none",
        bituning__prefix=prefix,
        bituning__representation=representation,
    )
    assert {name: p.numel() for name, p in laser.trainable_parameters().items()} == trained
    result, moved = step(laser, config, width=0)
    assert moved == set(trained)
    assert result.load_balance == 0 and len(result.expert_counts_K) == 0


@pytest.mark.parametrize("representation", ["mean", "eos"])
def test_other_representations_have_no_suffix_and_train_the_mformer(tiny_llm, representation):
    laser, config = build(tiny_llm, bituning__representation=representation)
    result, moved = step(laser, config)
    assert moved == set(laser.trainable_parameters())
    assert moved and all(name.startswith("mformer.") for name in moved)
    assert result.expert_counts_K.sum() == 12


def test_plain_bi_tuning_has_the_papers_number_of_parameters():
    """Table 3: 0.135 M at L = 32, H = 4096."""
    from laser.models.bituning import BiTuning

    plain = BiTuning(4096, 0.1, num_prefix_tokens=32)
    assert sum(p.numel() for p in plain.parameters()) == 33 * 4096 == 135_168
    assert abs(float(plain.prefix.detach().std()) - 0.1) < 0.001


@pytest.mark.parametrize("representation", ["mean", "eos"])
def test_representations_equal_a_plain_pass_of_one_history(tiny_llm, representation):
    """By `transformers` alone, unpadded: what stands where, and what is read."""
    overrides = {"recommender__type": "none", "bituning__prefix": "free", "bituning__representation": representation}
    laser, _ = build(tiny_llm, **overrides)
    reference, _ = build(tiny_llm, "transformers", **overrides)
    whole = batch(width=0)
    inputs = (whole.token_ids_BT, whole.token_mask_BT, whole.encoding_BNC, whole.encoding_mask_BN)
    together_BH, padded_BH = (model(*inputs).representation_BH for model in (laser, reference))
    for row in range(12):
        ids_T = whole.token_ids_BT[row][whole.token_mask_BT[row]]
        if representation == "eos":
            ids_T = torch.cat([ids_T, torch.tensor([reference.llm.config.eos_token_id])])
        text_TH = reference.llm.get_input_embeddings()(ids_T)
        sequence = torch.cat([reference.bituning.prefix, text_TH])
        hidden_TH = reference.llm(inputs_embeds=sequence[None]).last_hidden_state[0, LENGTH:]
        expected_H = hidden_TH.mean(dim=0) if representation == "mean" else hidden_TH[-1]
        for representation_BH in (together_BH, padded_BH):
            torch.testing.assert_close(representation_BH[row], expected_H, rtol=0, atol=1e-5)  # measured: 1e-6


def test_without_gate_the_router_learns_from_the_load_balance_alone(tiny_llm):
    laser, config = build(tiny_llm, mformer__gate="none", training__load_balance_weight=0.0)
    _, moved = step(laser, config)
    assert moved == set(laser.trainable_parameters()) - {"mformer.router.score.weight"}
    laser, config = build(tiny_llm, mformer__gate="none")
    assert "mformer.router.score.weight" in step(laser, config)[1]


def test_several_experts_per_user_all_get_gradient(tiny_llm):
    laser, config = build(tiny_llm, mformer__top_k=2)
    whole = batch(1)
    laser(whole.token_ids_BT, whole.token_mask_BT, whole.encoding_BNC, whole.encoding_mask_BN)[0].sum().backward()
    per_expert_K = laser.mformer.query_tokens.grad.abs().amax(dim=(1, 2))
    assert (per_expert_K > 0).sum() == 2
    laser, config = build(tiny_llm, mformer__top_k=2)
    assert step(laser, config)[1] == set(laser.trainable_parameters())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"recommender": {"type": "none"}}, 'recommender.type: "none"; the M-Former and head.collaborative read'),
        (
            {"bituning": {"prefix": "none", "representation": "eos"}},
            'bituning.representation: "eos"; without prefix and suffix nothing is left to train',
        ),
        ({"recommender": {"type": "none", "seed": 1}}, "recommender.seed: not a setting of the chosen"),
        ({"mformer": {"num_experts": 2, "top_k": 3}}, "mformer: .*top_k 3 is more than num_experts 2; lower it"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_in_one_line(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        validate(Experiment, settings)


@pytest.fixture(scope="module")
def experiment(tiny_llm, cache, tmp_path_factory) -> Experiment:
    """Real histories of MovieLens-100K before a random two-layer LLM: a whole run takes seconds."""
    return validate(
        Experiment,
        {
            "cache_dir": str(cache),
            "output_dir": str(tmp_path_factory.mktemp("runs")),
            "data": {"k_core": 60},
            "prompt": {"attributes": [], "instruction": "Sum up", "max_history_items": 3, "max_item_tokens": 8},
            "llm": {"source": str(tiny_llm), "dtype": "fp32", "compile": False},
            "recommender": {"type": "sasrec", "hidden_size": 8, "max_epochs": 1},
            "mformer": {
                "num_experts": 3, "num_virtual_tokens": LENGTH, "num_layers": 2, "hidden_size": 32, "num_heads": 4,
            },
            "training": {
                "num_workers": 0, "stage1_epochs": 1, "stage2_epochs": 1, "batch_size": 15, "micro_batch_size": 8,
                "learning_rate": 1e-2, "train_users": 30, "validation_users": 30, "test": False,
            },
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def inputs(experiment) -> Inputs:
    return prepare_inputs(experiment)


def two_sided_gradients(experiment: Experiment, inputs: Inputs, **settings: object) -> tuple[StepResult, dict]:
    """The first step's loss, and the weights after it by plain gradient descent."""
    config = with_overrides(experiment, {f"training.{name}": value for name, value in settings.items()})
    laser = build_plain(config, inputs, CPU)
    engine = PlainEngine(laser, config.training, CPU)
    engine.optimizer = torch.optim.SGD(parameter_groups(laser, config.training))
    result = TwoSidedStep(engine, inputs.train, inputs.items, config.training, 0)(np.arange(13), 0, 1.0)
    return result, engine.trainable_state()


@pytest.mark.parametrize("negatives", ["sampled", "in_batch"])
def test_a_two_sided_step_is_the_same_however_it_is_cut(experiment, inputs, negatives):
    """One pass over the batch against many; in_batch then gathers first and passes twice."""
    whole, weights = two_sided_gradients(experiment, inputs, negatives=negatives, micro_batch_size=1000)
    cut, weights_of_cut = two_sided_gradients(experiment, inputs, negatives=negatives, micro_batch_size=8)
    assert cut.contrastive == pytest.approx(whole.contrastive, abs=1e-5)
    assert cut.load_balance == pytest.approx(whole.load_balance, abs=1e-6)
    assert (cut.num_examples, cut.num_tokens) == (whole.num_examples, whole.num_tokens)
    for name, weight in weights.items():
        torch.testing.assert_close(weights_of_cut[name], weight, rtol=0, atol=1e-5)  # measured: 6e-7


def test_the_in_batch_loss_equals_a_loop_over_the_batch_with_gradient_to_both_sides(experiment, inputs):
    config = with_overrides(
        experiment,
        {"training.negatives": "in_batch", "training.micro_batch_size": 8, "training.load_balance_weight": 0.0},
    )
    laser = build_plain(config, inputs, CPU)
    examples, losses = inputs.train.examples, []
    rows = np.arange(13)
    users_BH = PlainEngine(laser, config.training, CPU).forward(inputs.train.batch(rows, [1.0] * 13, CPU)).vector_BD
    targets = examples.targets[rows].astype(np.int64)
    items_BH = laser(*passed(inputs.items.batch(targets, [1.0] * 13, CPU))).vector_BD
    masked = 0
    for row in rows:
        known = {*examples.whole_history(row).tolist(), targets[row]}
        others = [other for other in rows if targets[other] not in known]
        masked += 12 - len(others)
        scores = torch.stack([users_BH[row] @ items_BH[other] for other in (row, *others)])
        losses.append(-(scores / config.training.temperature).log_softmax(0)[0])
    assert masked > 0  # the comparison covers false negatives
    loss = torch.stack(losses).mean()
    loss.backward()
    rate = config.training.learning_rate
    expected = {
        name: p.detach() - rate * (0.0 if p.grad is None else p.grad)
        for name, p in laser.trainable_parameters().items()
    }
    settings = {"negatives": "in_batch", "load_balance_weight": 0.0, "micro_batch_size": 8}
    result, weights = two_sided_gradients(experiment, inputs, **settings)
    assert result.contrastive == pytest.approx(float(loss.detach()), abs=1e-5)
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-5)


def passed(whole: Batch) -> tuple:
    return whole.token_ids_BT, whole.token_mask_BT, whole.encoding_BNC, whole.encoding_mask_BN, whole.of


def test_sampled_negatives_are_new_to_the_user_and_the_same_each_time(experiment, inputs):
    engine = PlainEngine(build_plain(experiment, inputs, CPU), experiment.training, CPU)
    first, second, later = (
        TwoSidedStep(engine, inputs.train, inputs.items, experiment.training, epoch) for epoch in (0, 0, 1)
    )
    for example in range(len(inputs.train)):
        drawn = first._negatives(example)
        assert len(drawn) == 10
        assert not {*inputs.train.examples.whole_history(example).tolist(), inputs.train.examples.targets[example]} & {
            *drawn.tolist()
        }
        assert drawn.tolist() == second._negatives(example).tolist()
    assert first._negatives(0).tolist() != later._negatives(0).tolist()


def test_stage_0_and_the_schedule_resume_as_if_uninterrupted(experiment, inputs, tmp_path):
    config = with_overrides(
        experiment,
        {
            "training.alignment_epochs": 1,
            "training.stage0_epochs": 2,
            "training.schedule": "cosine",
            "training.warmup_steps": 3,
        },
    )
    whole = train_here(config, tmp_path / "whole", lambda metrics, epoch: None)

    class Interrupt(Exception):
        pass

    def interrupt_at(last: int):
        def report(metrics: object, epoch: int) -> None:
            if epoch == last:
                raise Interrupt

        return report

    for last in (1, 3):  # in stage 0, and after stage 1
        with pytest.raises(Interrupt):
            train_here(config, tmp_path / "parts", interrupt_at(last))
    names = {path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()}
    assert "stage1-epoch0001" in names
    parts = train_here(config, tmp_path / "parts", lambda metrics, epoch: None)
    assert parts.epochs == whole.epochs == 4
    assert parts.val == whole.val
    one, other = (latest_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "parts"))
    assert [row["stage"] for row in one.state.history[1:]] == [0, 0, 1, 2]
    assert [row["loss"] for row in one.state.history[1:]] == [row["loss"] for row in other.state.history[1:]]
    assert one.state.history[0]["alignment/loss"] > 0
    for name, weight in one.trainable().items():
        assert torch.equal(weight, other.trainable()[name]), name
    with pytest.raises(UserError, match=r"training\.stage2_epochs: 7 differs from 1"):  # the cosine would be another
        train_here(with_overrides(config, {"training.stage2_epochs": 7}), tmp_path / "parts", lambda *_: None)


def test_a_stage_goes_on_from_the_best_epoch_before_it(experiment, inputs, tmp_path):
    config = with_overrides(experiment, {"training.stage0_epochs": 2, "training.stage2_epochs": 0})
    train_here(config, tmp_path, lambda metrics, epoch: None)
    history = latest_checkpoint(tmp_path / "checkpoints").state.history
    first_two = [row["val/ndcg@10"] for row in history[1:3]]
    best = 1 + first_two.index(max(first_two))
    alone = with_overrides(config, {"training.stage0_epochs": best, "training.stage1_epochs": 0})
    train_here(alone, tmp_path / "alone", lambda metrics, epoch: None)
    kept = latest_checkpoint(tmp_path / "alone" / "checkpoints")
    assert kept.name == f"stage0-epoch{best:04d}"
    laser = build_plain(config, inputs, CPU)
    engine = PlainEngine(laser, config.training, CPU)
    engine.load_trainable(kept.trainable())
    step = catalogue_step(engine, inputs.train, kept.item_embeddings(), config.training)
    schedule = Schedule(config.training, 0, 0, 1)
    figures = train_epoch(engine, inputs.train, step, config.training, 2, "again", schedule, len(inputs.items))
    assert figures["loss"] == pytest.approx(history[3]["loss"], abs=1e-6)


def test_alignment_draws_prefixes_to_the_words_and_moves_the_mformer_alone(experiment, inputs):
    config = with_overrides(experiment, {"training.alignment_epochs": 3, "training.learning_rate": 1e-3})
    laser = build_plain(config, inputs, CPU)
    before = {name: weight.clone() for name, weight in laser.state_dict().items()}
    engine = PlainEngine(laser, config.training, CPU)
    once = with_overrides(config, {"training.alignment_epochs": 1}).training
    first = align(engine, inputs.items, once)["alignment/loss"]
    assert align(engine, inputs.items, config.training)["alignment/loss"] < first
    moved = {name for name, weight in laser.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in laser.trainable_parameters() if name.startswith("mformer.")}
    assert not engine.optimizer.state  # Adam begins afresh


def test_alignment_targets_are_the_centred_means_of_the_words(experiment, inputs):
    laser = build_plain(experiment, inputs, CPU)
    engine = PlainEngine(laser, experiment.training, CPU)
    targets_IH = text_targets(engine, inputs.items, experiment.training)
    table = laser.llm.get_input_embeddings().weight
    numbers = inputs.items.prompts.numbers[0]
    means = []
    for item in range(len(inputs.items)):
        words = np.concatenate([numbers, inputs.items.prompts.item(item)])
        means.append(table[torch.from_numpy(words.astype(np.int64))].mean(dim=0))
    centred_IH = torch.stack(means) - torch.stack(means).mean(dim=0)
    torch.testing.assert_close(targets_IH, torch.nn.functional.normalize(centred_IH, dim=-1), rtol=0, atol=1e-5)


def test_the_schedule_warms_up_in_each_stage_and_falls_along_a_cosine():
    config = TrainingConfig(schedule="cosine", warmup_steps=2, min_learning_rate_factor=0.1)
    factors = [Schedule(config, 0, 0, 13).factor(step) for step in range(13)]
    assert factors[0] == 0.5
    assert factors[1:3] == [1.0, 1.0]
    assert factors[7] == pytest.approx(0.55)  # half way from step 2 to step 12
    assert factors[12] == pytest.approx(0.1)
    second_epoch, second_stage = Schedule(config, 5, 5, 13), Schedule(config, 5, 0, 13)
    assert second_epoch.factor(0) == factors[5]
    assert second_stage.factor(0) == 0.5 * factors[5]
    constant = TrainingConfig(warmup_steps=2)
    assert [Schedule(constant, 4, 4, 8).factor(step) for step in range(2)] == [1.0, 1.0]


def test_zero_shot_evaluates_the_starting_weights_and_others_do_not_fit(experiment, inputs, tmp_path):
    source = train_here(experiment, tmp_path / "source", lambda metrics, epoch: None)
    zero_shot = with_overrides(
        experiment,
        {
            "data.k_core": 50,
            "training.start_from": str(tmp_path / "source"),
            "training.stage1_epochs": 0,
            "training.stage2_epochs": 0,
            "training.test": True,
        },
    )
    outcome = train_here(zero_shot, tmp_path / "target", lambda metrics, epoch: None)
    assert (outcome.selected, outcome.epochs) == ("stage0-epoch0000", 0)
    assert outcome.val == outcome.untrained_val
    assert outcome.test is not None and outcome.test["mrr"] > 0
    kept = read_checkpoint(tmp_path / "source" / "checkpoints" / source.selected).trainable()
    for name, weight in latest_checkpoint(tmp_path / "target" / "checkpoints").trainable().items():
        assert torch.equal(weight, kept[name]), name

    other = with_overrides(zero_shot, {"mformer.num_experts": 2})
    with pytest.raises(
        UserError, match=r"start_from: weight mformer\.query_tokens is \(3, 4, 32\) in .* and is \(2, 4, 32\)"
    ):
        check_start(other, prepare_inputs(other).recommender_directory)
    without = with_overrides(zero_shot, {"bituning.prefix": "free"})
    with pytest.raises(UserError, match=r"start_from: weight bituning\.prefix is missing in .* and is \(4, 32\) here"):
        check_start(without, None)
    nowhere = with_overrides(zero_shot, {"training.start_from": str(tmp_path)})
    with pytest.raises(UserError, match=r"training\.start_from: .* is neither a checkpoint nor a run with one; name"):
        check_start(nowhere, prepare_inputs(nowhere).recommender_directory)


def test_shares_of_users_are_nested_and_prefixes_are_of_the_same_users(movielens):
    every, last = movielens.examples("train", every_prefix=True), movielens.examples("train")
    users = [set(last.share_of_users(share, seed=1).users.tolist()) for share in (0.05, 0.3, 1.0)]
    assert users[0] < users[1] < users[2]
    assert [len(chosen) for chosen in users] == [47, 283, 943]
    assert set(every.share_of_users(0.05, seed=1).users.tolist()) == users[0]
    assert len(last.share_of_users(1e-9, seed=1)) == 1
    sampled = last.sample_users(20, seed=1)
    assert sampled.users.tolist() == last.sample(20, seed=1).users.tolist()
    assert set(every.sample_users(20, seed=1).users.tolist()) == set(sampled.users.tolist())


def test_items_may_have_an_instruction_of_their_own(experiment):
    own = prepare_inputs(with_overrides(experiment, {"prompt.item_instruction": "An item"}))
    same = prepare_inputs(experiment)
    history, item = own.val.examples.history(0), own.items.examples.history(0)
    assert own.val.prompts.tokens(history).tolist() == same.val.prompts.tokens(history).tolist()
    tokenizer = load_tokenizer(own.llm_directory)
    theirs, ours = (tokenizer.decode(part.items.prompts.tokens(item)) for part in (same, own))
    assert ours == theirs.replace("Sum up", "An item")
    assert own.items.lengths[0] == len(own.items.prompts.tokens(item))
