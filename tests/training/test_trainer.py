"""The trainer: its step against one written by hand, what it keeps, and what it refuses."""

import copy
import math
import pickle
from itertools import islice
from pathlib import Path, PurePath

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import TensorDataset

from ddpm import P2, GaussianDiffusion, MinSNR, Trainer, Unet, stratified_timesteps
from ddpm.data import digits
from ddpm.io.checkpoint import list_checkpoints
from ddpm.training.metrics_logger import read_metrics
from ddpm.training.sampler import Purpose, ShuffledBatches, mixed_seed
from tests.runs import model, pictures, saved_files, spied, trained, trainer, weights

PAGE = Path(__file__).parents[2] / "chapters" / "from-mindspore.md"


def test_quick_start_of_the_port(tmp_path, monkeypatch):
    """As the port's page has it, on the CPU; narrower, on three pictures, and for 2 updates."""
    monkeypatch.chdir(tmp_path)
    code = PAGE.read_text(encoding="utf-8").split("```")[3].split("tar.gz")[-1].partition("\n")[2]
    for theirs, ours in {"dim=64": "dim=8", "=1000": "=2", '"fp16"': '"no"'}.items():
        assert code.count(theirs) == 1
        code = code.replace(theirs, ours)
    known = {"path": str(pictures(tmp_path / "flowers", 3, (70, 80)))}
    exec(code, known | {"Trainer": Trainer, "Unet": Unet, "GaussianDiffusion": GaussianDiffusion})
    run = tmp_path / "results"
    assert len(list_checkpoints(run)) == 1
    with Image.open(run / "samples" / "step-00000002.png") as grid:
        assert grid.size == (5 * 65 + 1, 5 * 65 + 1)  # 25 samples of 64 pixels, and lines between them
    assert GaussianDiffusion.from_pretrained(run).beta_schedule == "cosine"


def test_trainer_reads_and_sets_its_config(tmp_path):
    ours = trainer(tmp_path, train_lr=3e-4)
    assert (ours.train_lr, ours.results_folder) == (ours.config.train_lr, tmp_path) == (3e-4, tmp_path)
    ours.train_num_steps = 7
    assert ours.config.train_num_steps == 7
    with pytest.raises(ValueError, match="train_num_steps must be a whole number of at least 1, but got 0"):
        ours.train_num_steps = 0
    with pytest.raises(AttributeError, match="a Trainer has no attribute 'batch'"):
        _ = ours.batch
    fixed = {"adam_betas": (0.8, 0.9), "augment_horizontal_flip": False, "channels_last": False}
    for name, value in (fixed | {"weight_decay": 0.1}).items():
        with pytest.raises(AttributeError, match=rf"make another, Trainer\(…, {name}="):
            setattr(ours, name, value)
    ours.mixed_precision = "fp16"
    with pytest.raises(ValueError, match="'fp16' needs a loss scaler"):
        ours.train()


@pytest.mark.parametrize(
    ("draws_over", "said"), [(True, "sampling: 100%"), (False, "drawing 4 samples of step 2\n")]
)
def test_trainer_says_that_it_draws_samples(tmp_path, monkeypatch, capsys, draws_over, said):
    monkeypatch.setattr("ddpm.training.samples.is_terminal", lambda stream: draws_over)  # noqa: ARG005
    trained(tmp_path, train_num_steps=2)
    assert capsys.readouterr().err == ""
    trained(tmp_path / "told", train_num_steps=2, progress=True)
    assert said in capsys.readouterr().err


# The step

WEIGHTS = {
    None: torch.ones_like,
    MinSNR(gamma=2.0): lambda snr: snr.clamp(max=2) / (snr + 1),
    P2(gamma=1.0, k=0.5): lambda snr: 1 / (0.5 + snr),
}


SEED, DECAY = 7, 0.5


def by_hand(diffusion, images, *, accumulate, max_grad_norm, decay):
    """Algorithm 1 written out with torch alone: weights after 4 updates of 8 images, their average, losses, norms."""
    network = copy.deepcopy(diffusion.network).train()
    T, alpha_bars = diffusion.schedule.timesteps, diffusion.schedule.alpha_bar
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.8, 0.95))
    order = iter(ShuffledBatches(len(images), 8, seed=SEED))
    average, telling, metrics = None, torch.tensor(True), []
    for step in range(4):
        optimiser.zero_grad()
        rate = optimiser.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 3)  # warm-up over two updates
        losses = []
        for number in range(accumulate):
            x0 = images[list(next(order).indices)] * 2 - 1
            of_t, of_noise = (
                torch.Generator().manual_seed(mixed_seed(purpose, SEED, step, number))
                for purpose in (Purpose.TIMESTEPS, Purpose.NOISE)
            )
            t = stratified_timesteps(8, T, generator=of_t)
            noise = torch.randn(x0.shape, generator=of_noise)
            alpha_bar = alpha_bars[t].view(-1, 1, 1, 1)
            x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
            v = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
            weight = WEIGHTS[diffusion.loss_weighting](alpha_bar / (1 - alpha_bar))
            losses.append((weight * (network(x_t, t) - v).square()).mean())
            (losses[-1] / accumulate).backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm)
        metrics.append((sum(losses).item() / accumulate, norm.item()))
        # Adam divides a gradient by its usual size: one that is near zero by chance turns rounding into an update.
        sizes = torch.cat([parameter.grad.abs().flatten() for parameter in network.parameters()])
        telling = telling & ((sizes == 0) | (sizes > 0.03 * sizes[sizes > 0].median()))
        for parameter in network.parameters():
            parameter.data.mul_(1 - rate * DECAY)  # decoupled from Adam
        optimiser.step()
        now = weights(network)
        average = now if average is None else decay * average + (1 - decay) * now
    return weights(network), average, telling, metrics


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("max_grad_norm", "weighting"), list(zip([0.1, 100.0, 100.0], WEIGHTS, strict=True)))
def test_train_is_algorithm_1(tmp_path, accumulate, max_grad_norm, weighting):
    diffusion, images = model(loss_weighting=weighting), digits().tensors[0]
    expected, average, telling, metrics = by_hand(
        diffusion, images, accumulate=accumulate, max_grad_norm=max_grad_norm, decay=0.9
    )
    before = weights(diffusion.network)
    config = {"max_grad_norm": max_grad_norm, "gradient_accumulate_every": accumulate, "seed": SEED}
    config |= {"train_lr": 1e-3, "lr_warmup_steps": 2, "adam_betas": (0.8, 0.95), "weight_decay": DECAY}
    config |= {"ema_decay": 0.9, "ema_rampup": None, "ema_update_every": 1}
    ours = trained(tmp_path, diffusion, **config)
    assert telling.float().mean() > 0.8
    torch.testing.assert_close(weights(diffusion)[telling], expected[telling], rtol=0, atol=2e-6)
    torch.testing.assert_close(weights(ours.ema_model)[telling], average[telling], rtol=0, atol=2e-6)
    assert (weights(diffusion) - before).abs().max() > 1e-3
    for line, (loss, norm) in zip(read_metrics(tmp_path), metrics, strict=True):
        assert line["loss"] == pytest.approx(loss, rel=1e-4)
        assert line["grad_norm"] == pytest.approx(norm, rel=1e-3)


def test_training_step_forgets_the_gradient_of_a_broken_one(tmp_path):
    ours, again = trainer(tmp_path / "a"), trainer(tmp_path / "b")
    for parameter in ours.diffusion.parameters():
        parameter.grad = torch.ones_like(parameter)
    for one in (ours, again):
        with one.running() as network:
            one.training_step(network, one.batches())
    assert torch.equal(weights(ours.diffusion), weights(again.diffusion))


def first_batch():
    return [part[list(next(iter(ShuffledBatches(1797, 8, 0))).indices)] for part in digits().tensors]


def test_train_in_bf16_runs_the_network_alone_in_it(tmp_path):
    ours = spied(tmp_path, mixed_precision="bf16")
    ours.train()
    first = ours.diffusion.network.calls[0]
    assert (first["x_t"].dtype, first["type"]) == (torch.float32, torch.bfloat16)
    ours.step, x0 = 0, first_batch()[0] * 2 - 1
    t, noise, _ = ours.draw(8, 0)
    assert torch.equal(first["x_t"], ours.diffusion.q_sample(x0, t, noise))
    assert all(parameter.dtype == torch.float32 for parameter in ours.diffusion.parameters())
    assert ours.diffusion.network(x0, t).dtype == torch.float32


def test_train_in_bf16_holds_for_a_second_part_in_one_program(tmp_path):
    """Bit for bit, also if a trainer of another precision was made and run in between."""
    ours = spied(tmp_path / "parts", mixed_precision="bf16")
    ours.train()
    spied(tmp_path / "full").train()
    ours.train_num_steps = 2
    ours.diffusion.network.calls.clear()
    ours.train()
    assert {call["type"] for call in ours.diffusion.network.calls if call["training"]} == {torch.bfloat16}
    whole = spied(tmp_path / "whole", mixed_precision="bf16", train_num_steps=2)
    full = spied(tmp_path / "other", train_num_steps=2)
    full.train()
    whole.train()
    assert torch.equal(weights(ours.diffusion), weights(whole.diffusion))
    assert not torch.equal(weights(full.diffusion), weights(whole.diffusion))


@pytest.mark.parametrize(
    ("own", "word", "kind"), [("bf16", "no", torch.float32), ("no", "bf16", torch.bfloat16)]
)
@pytest.mark.parametrize("first", [True, False])
def test_trainer_and_an_accelerator_of_the_program_each_keep_their_precision(
    tmp_path, own, word, kind, first
):
    """accelerate keeps one for the whole program, and refuses a second."""
    AcceleratorState._reset_state()
    theirs = Accelerator(mixed_precision=own) if first else None
    ours = spied(tmp_path, mixed_precision=word)
    ours.train()
    theirs = Accelerator(mixed_precision=own) if theirs is None else theirs
    ours.train_num_steps = 2
    ours.train()
    assert {call["type"] for call in ours.diffusion.network.calls if call["training"]} == {kind}
    assert theirs.mixed_precision == own
    with theirs.autocast():
        assert (nn.Linear(1, 1)(torch.ones(1, 1)).dtype == torch.bfloat16) == (own == "bf16")
    AcceleratorState._reset_state()


def test_train_gives_half_of_the_images_a_guess(tmp_path):
    ours = spied(tmp_path, {"self_condition": True}, train_batch_size=400)
    ours.train()
    blind, guided = ours.diffusion.network.calls[:2]
    assert (blind["grad"], guided["grad"], guided["guess"].requires_grad) == (False, True, False)
    given = guided["guess"].flatten(1).abs().sum(1) > 0
    assert 100 < given.sum() < 300
    coins = ours.draw(20_000, 0)[2]["self_condition_mask"]
    assert abs(int(coins.sum()) - 10_000) < 5 * 5_000**0.5  # five standard deviations
    sampled = ours.ema_model.network.calls[-2:]
    assert sampled[0]["guess"] is None
    assert sampled[1]["guess"] is not None


def test_draw_covers_the_timesteps_evenly(tmp_path):
    ours = spied(tmp_path, train_batch_size=50)
    ours.train()
    assert ours.diffusion.network.calls[0]["t"].tolist() == list(range(1, 51))


def test_train_gives_labels_to_a_network_that_takes_them(tmp_path):
    ours, calls = trainer(tmp_path, model(network={"num_classes": 10}), train_num_steps=2), []
    ours.diffusion.network.register_forward_pre_hook(lambda _, args: calls.append(args[2]))
    ours.train()
    assert torch.equal(calls[0], first_batch()[1])


def test_train_hides_some_of_the_labels_each_by_itself(tmp_path):
    network = {"num_classes": 10, "label_dropout": 0.25}
    ours, calls = trainer(tmp_path, model(network=network), train_batch_size=400, train_num_steps=1), []
    ours.diffusion.network.register_forward_pre_hook(lambda _, args: calls.append(args[2]))
    ours.train()
    hidden = calls[0] == 10
    assert 60 < hidden.sum() < 140
    ours.step = 0
    assert torch.equal(hidden, ~ours.draw(400, 0)[2]["label_mask"])
    kept = ours.draw(20_000, 1)[2]["label_mask"]
    assert abs(int(kept.sum()) - 15_000) < 5 * 3_750**0.5  # five standard deviations


def test_a_seed_may_be_as_large_as_it_is_allowed_to_be(tmp_path):
    trained(tmp_path, seed=2**63 - 1, train_num_steps=1)


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)])
def test_train_draws_dropout_by_its_seed(tmp_path, seed, same):
    """Whatever the program has drawn before."""
    drawn = []
    for name, config in {"one": {"seed": 0}, "other": {"seed": seed}}.items():
        ours = trainer(tmp_path / name, train_num_steps=1, **config)
        ours.diffusion.network.register_forward_pre_hook(lambda *_: drawn.append(torch.rand(4)))
        torch.manual_seed(len(drawn))
        ours.train()
    assert torch.equal(drawn[0], drawn[len(drawn) // 2]) == same


def test_running_trains_and_puts_everything_back(tmp_path):
    ours, threads = trainer(tmp_path, model(network={"dropout": 0.5}), num_threads=3), torch.get_num_threads()
    ours.diffusion.eval()
    with ours.running() as network:
        assert network.training
        assert torch.get_num_threads() == 3 != threads
        assert not ours.ema_model.training
    assert not any(module.training for module in ours.diffusion.modules())
    assert torch.get_num_threads() == threads
    ours.num_threads = None
    with ours.running():
        assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("steps", "every", "moved"),
    [(1, 10, 1), (2, 3, 1), (6, 3, 3), (4, 4, 2)],  # at the first step, and at every third or fourth
)
def test_train_moves_the_average_every_so_many_steps(tmp_path, steps, every, moved):
    ours = trained(tmp_path, ema_update_every=every, train_num_steps=steps, ema_rampup=None, ema_decay=0.5)
    assert int(ours.ema.n_averaged) == moved
    assert torch.equal(weights(ours.ema_model), weights(ours.diffusion)) == (steps == 1)


def test_train_compiled_changes_nothing(tmp_path, monkeypatch):
    compiled, compile_ = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or compile_(network))
    config = {"train_lr": 1e-2, "train_num_steps": 4}
    plain, fast = spied(tmp_path / "plain", **config), spied(tmp_path / "fast", compile=True, **config)
    plain.train()
    fast.train()
    assert len(compiled) == 1
    torch.testing.assert_close(weights(fast.diffusion), weights(plain.diffusion), rtol=0, atol=1e-6)
    saved = list_checkpoints(tmp_path / "fast")[-1] / "model.safetensors"
    assert sorted(load(saved.read_bytes())) == ["layer.bias", "layer.weight"]  # and no _orig_mod


def test_train_depends_on_no_workers_samples_and_what_went_before(tmp_path):
    configs = {"plain": {"save_and_sample_every": 4}, "other": {"save_and_sample_every": 1, "num_workers": 2}}
    for number, (name, config) in enumerate(configs.items()):
        ours = trainer(tmp_path / name, model(network={"dropout": 0.3}), **config)
        torch.manual_seed(number)
        ours.train()
    assert saved_files(tmp_path / "plain") == saved_files(tmp_path / "other")


@pytest.mark.parametrize("flip", [True, False])
def test_trainer_mirrors_the_pictures_of_a_folder_if_asked(tmp_path, flip):
    folder, config = pictures(tmp_path / "pictures", 2, (8, 8)), {"train_batch_size": 2}
    diffusion, place = model(network={"channels": 3}), PurePath(folder) if flip else str(folder)
    ours = trainer(tmp_path / "run", diffusion, place, augment_horizontal_flip=flip, **config)
    seen = {image.numpy().tobytes() for images, _ in islice(ours.batches(), 10) for image in images}
    assert len(seen) == (4 if flip else 2)


def test_trainer_tries_the_network_without_a_trace(tmp_path):
    """In evaluation mode: dropout would have drawn from the program's generator."""
    diffusion = model(network={"dropout": 0.5})
    before = torch.get_rng_state()
    trainer(tmp_path, diffusion)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in diffusion.modules())


@pytest.mark.parametrize("last", [True, False])
def test_trainer_lays_channels_in_memory_as_asked(tmp_path, last):
    weight = trainer(tmp_path, channels_last=last).diffusion.network.down[0].block.conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == last
    assert weight.is_contiguous() != last


# What is refused before work starts

FEW = TensorDataset(torch.zeros(5, 1, 8, 8))
SEVENS = TensorDataset(torch.zeros(20, 1, 7, 7))


@pytest.mark.parametrize(
    ("diffusion", "data", "config", "error", "message"),
    [
        ({}, None, {"amp_level": "O1"}, TypeError, "no 'amp_level': write mixed_precision='fp16'"),
        ({}, None, {"dynamic_loss_scale": True}, TypeError, "no 'dynamic_loss_scale': with mixed_precision"),
        ({}, None, {"jit": True}, TypeError, "no 'jit': write compile=True"),
        ({}, None, {"akg": True}, TypeError, "no 'akg': write compile=True"),
        ({}, None, {"distributed": True}, TypeError, "no 'distributed': start the program with"),
        ({}, None, {"zeal": 1}, TypeError, r"no 'zeal': help\(Trainer\) lists what it has"),
        ({}, None, {"train_batchsize": 1}, TypeError, "no 'train_batchsize': did you mean train_batch_size?"),
        ({}, None, {"lr": 1e-4}, TypeError, "no 'lr': write train_lr=… instead"),
        ({}, None, {"num_epochs": 3}, TypeError, "no 'num_epochs': write train_num_steps=…"),
        ({}, None, {"device": "cpu"}, TypeError, "no 'device': .* set ACCELERATE_USE_CPU=true"),
        ({}, None, {"amp": True}, TypeError, "no 'amp': write mixed_precision='fp16'"),
        ({}, None, {"calculate_fid": True}, TypeError, "no 'calculate_fid': .* `ddpm evaluate`"),
        ({}, None, {"split_batches": True}, TypeError, "no 'split_batches': train_batch_size is what each"),
        ({}, None, {"mixed_precision": "fp16"}, ValueError, "needs an NVIDIA or AMD GPU, and there is none"),
        ({}, FEW, {}, ValueError, r"=8 on 1 process\(es\) takes .* than the 5 there are; lower it to 5"),
        ({}, "nowhere", {}, NotADirectoryError, "does not exist"),
        ({}, "empty", {}, ValueError, r"empty holds no image: none of its 0 files"),
        ({"image_size": 7}, SEVENS, {}, ValueError, "H and W divisible by 2, but got"),
        ({"network": {"out_dim": 3}}, None, {}, ValueError, "the network must return shape"),
        ({"network": {"channels": 3}}, None, {}, ValueError, r"of shape \(3, 8, 8\), but .* is \(1, 8, 8\)"),
        ({"network": {"num_classes": 10}}, FEW, {}, ValueError, "the network takes class labels"),
    ],
)
def test_trainer_refuses_what_does_not_fit(tmp_path, monkeypatch, diffusion, data, config, error, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "empty").mkdir()
    data = tmp_path / data if isinstance(data, str) else data
    with pytest.raises(error, match=message):
        trainer(tmp_path / "run", model(**diffusion), data, **config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda diffusion: diffusion.half(), "weights are torch.float16, .* give diffusion.float()"),
        (lambda diffusion: diffusion.bfloat16(), "weights are torch.bfloat16"),
        (
            lambda diffusion: diffusion.requires_grad_(False),
            r"all are frozen .* diffusion.requires_grad_\(True",
        ),
        (
            lambda diffusion: AveragedModel(diffusion).requires_grad_(False).module,
            "as those of trainer.ema_model",
        ),
        (torch.inference_mode()(copy.deepcopy), "make the model, and the Trainer, outside of it"),
    ],
)
def test_trainer_refuses_weights_that_cannot_be_trained(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path / "run", change(model()))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        torch.nn.Module.half,
        lambda diffusion: diffusion.requires_grad_(False),
        lambda diffusion: setattr(diffusion, "network", copy.deepcopy(diffusion.network)),
        lambda diffusion: setattr(diffusion.network, "last", copy.deepcopy(diffusion.network.last)),
    ],
)
def test_train_refuses_weights_that_can_no_longer_be_trained(tmp_path, change):
    ours = trainer(tmp_path)
    change(ours.diffusion)
    with pytest.raises(ValueError, match=r"give\s+diffusion\."):
        ours.train()


def test_a_copy_of_a_trainer_trains_its_own_weights(tmp_path):
    ours = trainer(tmp_path)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        other.results_folder = tmp_path / str(id(other))
        other.diffusion.network = torch.compile(other.diffusion.network, backend="eager")
        other.train()
        assert not torch.equal(weights(other.diffusion), weights(ours.diffusion))


def test_a_seed_may_be_larger_than_that_of_every_generator(tmp_path):
    assert trained(tmp_path, train_num_steps=1, seed=2**32 + 5).step == 1


def test_trainer_is_not_made_in_inference_mode(tmp_path):
    with torch.inference_mode(), pytest.raises(ValueError, match="outside of it"):
        trainer(tmp_path / "run")


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_train_needs_no_gradients_of_the_program(tmp_path, off):
    """Such as of a notebook that begins with `torch.set_grad_enabled(False)`."""
    ours = trainer(tmp_path / "off")
    with off():
        ours.train()
    assert torch.equal(weights(ours.diffusion), weights(trained(tmp_path / "on").diffusion))


def test_train_says_that_the_run_is_longer_than_asked(tmp_path):
    trained(tmp_path)
    with pytest.warns(UserWarning, match="stands at step 4, beyond train_num_steps=3: nothing is trained"):
        trainer(tmp_path, train_num_steps=3).resume()


def test_trainer_takes_a_model_of_which_a_part_is_frozen(tmp_path):
    diffusion = model()
    frozen = [*diffusion.network.time_embedding.requires_grad_(False).parameters()]
    before = copy.deepcopy(frozen)
    ours = trained(tmp_path, diffusion)
    averaged = ours.ema_model.network.time_embedding.parameters()
    for weight, was, average in zip(frozen, before, averaged, strict=True):
        assert torch.equal(weight, was)
        assert torch.equal(average, was)


def test_trainer_takes_as_many_images_as_there_are(tmp_path):
    trained(tmp_path, data=FEW, train_batch_size=5)


def test_trainer_leaves_broken_and_small_pictures_to_a_warning(tmp_path):
    folder = pictures(tmp_path / "pictures", 9)
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    diffusion = model(network={"channels": 3}, image_size=16)
    with (
        pytest.warns(UserWarning, match=r"9 of 9 images .* are smaller than image_size 16×16 .* at most 10"),
        pytest.warns(UserWarning, match=r"left out: 1 of 10 images in .* cannot be read: .*broken\.png"),
    ):
        ours = trainer(tmp_path / "run", diffusion, folder)
    ours.train()
    assert ours.step == 4


@pytest.mark.parametrize(("scale", "overflows"), [(None, False), (2.0**10, False), (math.inf, True)])
def test_a_loss_scaler_changes_no_update_but_leaves_out_one_that_overflows(tmp_path, scale, overflows):
    ours, plain = trainer(tmp_path / "scaled"), trainer(tmp_path / "plain")
    before = weights(ours.diffusion)
    if scale is not None:
        ours.scaler = torch.amp.GradScaler("cpu", init_scale=scale)  # where fp16 has one
    with ours.running() as network, plain.running() as other:
        (loss, norm), (plain_loss, plain_norm) = (
            one.training_step(net, one.batches()) for one, net in ((ours, network), (plain, other))
        )
    assert loss == plain_loss
    assert norm.isfinite() == (not overflows)
    assert overflows or norm == plain_norm
    assert torch.equal(weights(ours.diffusion), before if overflows else weights(plain.diffusion))
