"""The trainer: its step against one written by hand, what it keeps, and what it refuses."""

import copy
import json
import math
import re
import shutil
import warnings

import pytest
import torch
from PIL import Image
from safetensors.torch import load
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from ddpm import P2, GaussianDiffusion, MinSNR, Trainer, Unet, stratified_timesteps
from ddpm.data import digits
from ddpm.io.checkpoint import list_checkpoints
from ddpm.training.metrics_logger import read_metrics
from ddpm.training.sampler import Purpose, ShuffledBatches, mixed_seed
from tests import runs
from tests.io.mounts import run_on_disk
from tests.runs import model, pictures, saved_files, trainer, weights

PORT_QUICK_START = """
from ddm import Unet, GaussianDiffusion, Trainer

model = Unet(
    dim = 64,
    dim_mults = (1, 2, 4, 8)
)

diffusion = GaussianDiffusion(
    model,
    image_size = 64,
    timesteps = 10,             # number of steps
    sampling_timesteps = 5,     # number of sampling timesteps
    loss_type = 'l1'            # L1 or L2
)

trainer = Trainer(
    diffusion,
    path,
    train_batch_size = 1,
    train_lr = 8e-5,
    train_num_steps = 1000,         # total training steps
    gradient_accumulate_every = 2,    # gradient accumulation steps
    ema_decay = 0.995,                # exponential moving average decay
    amp_level = 'O1',                        # turn on mixed precision
)

trainer.train()
"""


# The documented quick start of the port


def test_the_quick_start_of_the_port(tmp_path, monkeypatch):
    """The port's README, its import changed and `amp_level` written `mixed_precision`; 2 updates instead of 1,000."""
    monkeypatch.chdir(tmp_path)
    ours = PORT_QUICK_START.replace("from ddm import", "from ddpm import")
    ours = ours.replace("amp_level = 'O1'", "mixed_precision = 'no'").replace("= 1000,", "= 2,")
    exec(compile(ours, "quick start", "exec"), {"path": str(pictures(tmp_path / "flowers", 3, (70, 80)))})
    run = tmp_path / "results"
    assert len(list_checkpoints(run)) == 1
    with Image.open(run / "samples" / "step-00000002.png") as grid:
        assert grid.size == (5 * 65 + 1, 5 * 65 + 1)  # 25 samples of 64 pixels, and lines between them
    assert GaussianDiffusion.from_pretrained(run).beta_schedule == "cosine"


def test_the_old_words_are_refused_with_advice(tmp_path):
    for word in ("amp_level", "dynamic_loss_scale", "jit", "akg", "distributed"):
        with pytest.raises(TypeError, match=f"Trainer has no '{word}': "):
            trainer(tmp_path, **{word: True})
    with pytest.raises(TypeError, match="mixed_precision='fp16'"):
        trainer(tmp_path, amp_level="O1")


# The step


def by_hand(diffusion, images, *, steps, batch, accumulate, settings, decay):
    """Algorithm 1 written out with torch alone: the weights after some updates, and their average."""
    network = copy.deepcopy(diffusion.network).train()
    T, schedule = diffusion.schedule.timesteps, diffusion.schedule
    optimiser = torch.optim.Adam(network.parameters(), lr=settings["train_lr"], betas=(0.9, 0.99))
    order = iter(ShuffledBatches(len(images), batch, seed=0))
    average, telling = None, torch.tensor(True)
    for step in range(steps):
        optimiser.zero_grad()
        for number in range(accumulate):
            x0 = images[list(next(order).indices)] * 2 - 1
            of_levels, of_noise = (
                torch.Generator().manual_seed(mixed_seed(purpose, 0, step, number))
                for purpose in (Purpose.LEVELS, Purpose.NOISE)
            )
            t = stratified_timesteps(batch, T, generator=of_levels)
            noise = torch.randn(x0.shape, generator=of_noise)
            alpha_bar = schedule.alpha_bar[t].view(-1, 1, 1, 1)
            x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
            v = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
            (F.mse_loss(network(x_t, t), v) / accumulate).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings["max_grad_norm"])
        # Adam divides a gradient by its usual size: one that is near zero by chance turns rounding into an update.
        sizes = torch.cat([parameter.grad.abs().flatten() for parameter in network.parameters()])
        telling = telling & ((sizes == 0) | (sizes > 0.03 * sizes[sizes > 0].median()))
        optimiser.step()
        now = weights(network)
        average = now if average is None else decay * average + (1 - decay) * now
    return weights(network), average, telling


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("max_grad_norm", [0.1, 100.0])
def test_the_step_is_algorithm_1(tmp_path, accumulate, max_grad_norm):
    diffusion, images = model(), digits().tensors[0]
    settings = {"train_lr": 1e-3, "max_grad_norm": max_grad_norm}
    expected, average, telling = by_hand(
        diffusion, images, steps=4, batch=8, accumulate=accumulate, settings=settings, decay=0.9
    )
    ours = trainer(
        tmp_path,
        diffusion,
        gradient_accumulate_every=accumulate,
        ema_decay=0.9,
        ema_rampup=None,
        ema_update_every=1,
        **settings,
    )
    before = weights(diffusion.network)
    ours.train()
    assert telling.float().mean() > 0.8
    torch.testing.assert_close(weights(diffusion)[telling], expected[telling], rtol=0, atol=2e-6)
    torch.testing.assert_close(weights(ours.ema_model)[telling], average[telling], rtol=0, atol=2e-6)
    assert (weights(diffusion) - before).abs().max() > 1e-3


WEIGHTINGS = {
    MinSNR(gamma=2.0): lambda alpha_bar: (
        torch.minimum(alpha_bar / (1 - alpha_bar), torch.tensor(2.0)) / (alpha_bar / (1 - alpha_bar) + 1)
    ),
    P2(gamma=1.0, k=0.5): lambda alpha_bar: 1 / (0.5 + alpha_bar / (1 - alpha_bar)),
}


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_really_weight_by_t(tmp_path, weighting):
    """Against the formula of each, image by image: an outer product would give the mean weight to all."""
    ours = trainer(tmp_path, model(loss_weighting=weighting), max_grad_norm=1e9, train_lr=1e-9)
    with ours.running() as network:
        loss, norm = ours.training_step(network, ours.batches())
    images, _ = next(ours.batches())
    t, noise, _ = ours.draw(8, 0)
    alpha_bar = ours.diffusion.schedule.alpha_bar[t].view(-1, 1, 1, 1)
    x_t = alpha_bar.sqrt() * (images * 2 - 1) + (1 - alpha_bar).sqrt() * noise
    v = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * (images * 2 - 1)
    error = (ours.diffusion.network(x_t, t) - v).square().mean((1, 2, 3))
    weight = WEIGHTINGS[weighting](alpha_bar.flatten())
    expected = (weight * error).mean()
    gradient = torch.autograd.grad(expected, list(ours.diffusion.network.parameters()))
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    assert float(norm) == pytest.approx(length_of(gradient), rel=1e-4)
    assert abs(float(loss) / (weight.mean() * error.mean()).item() - 1) > 0.01


def length_of(gradient):
    return math.sqrt(sum(float(part.double().square().sum()) for part in gradient))


def test_accumulation_averages_over_its_batches(tmp_path):
    """Two batches of 8 are one of 16 with the same levels and noise; here the gradients are compared directly."""
    ours = trainer(tmp_path, gradient_accumulate_every=2, max_grad_norm=1e9, train_lr=1e-9)
    with ours.running() as network:
        loss, norm = ours.training_step(network, ours.batches())
    batches, losses = ours.batches(), []
    for number in range(2):
        images, _ = next(batches)
        t, noise, _ = ours.draw(8, number)
        losses.append(ours.diffusion.loss(images * 2 - 1, t, noise))
    mean = torch.stack(losses).mean()
    gradient = torch.autograd.grad(mean, list(ours.diffusion.network.parameters()))
    assert float(loss) == pytest.approx(mean.item(), rel=1e-5)
    assert float(norm) == pytest.approx(length_of(gradient), rel=1e-4)


class Spy(torch.nn.Module):
    """A network that remembers what it was given."""

    channels = 1
    self_condition = True

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(2, 1, 3, padding=1)
        self.calls = []

    def forward(self, x_t, t, labels=None, x_self_cond=None):
        guess = torch.zeros_like(x_t) if x_self_cond is None else x_self_cond
        output = self.layer(torch.cat([x_t, guess], 1))
        self.calls.append(
            {
                "x_t": x_t,
                "t": t,
                "labels": labels,
                "guess": x_self_cond,
                "type": output.dtype,
                "grad": output.requires_grad,
                "training": self.training,
            }
        )
        return output


def spied(folder, **settings):
    torch.manual_seed(0)
    diffusion = GaussianDiffusion(Spy(), image_size=8, timesteps=50, objective="pred_v", sampling_timesteps=2)
    ours = trainer(folder, diffusion, train_num_steps=1, **settings)
    diffusion.network.calls.clear()  # of the trial before work starts
    return ours


def test_x_t_is_formed_in_float32_and_only_the_network_runs_in_bf16(tmp_path):
    ours = spied(tmp_path, mixed_precision="bf16")
    ours.train()
    first = ours.diffusion.network.calls[0]
    assert first["x_t"].dtype == torch.float32
    assert first["type"] == torch.bfloat16
    x0 = digits().tensors[0][list(next(iter(ShuffledBatches(1797, 8, 0))).indices)] * 2 - 1
    ours.step = 0
    t, noise, _ = ours.draw(8, 0)
    assert torch.equal(first["x_t"], ours.diffusion.q_sample(x0, t, noise))
    assert all(parameter.dtype == torch.float32 for parameter in ours.diffusion.parameters())
    # and afterwards the network is as it was
    assert "forward" not in vars(ours.diffusion.network)
    assert ours.diffusion.network(x0, t).dtype == torch.float32


def test_self_conditioning_gives_half_of_the_images_a_guess(tmp_path):
    ours = spied(tmp_path, train_batch_size=400)
    ours.train()
    blind, guided = ours.diffusion.network.calls[:2]
    assert not blind["grad"]
    assert guided["grad"]
    given = guided["guess"].flatten(1).abs().sum(1) > 0
    assert abs(int(given.sum()) - 200) < 5 * 10  # five standard deviations of 400 coins
    assert not guided["guess"].requires_grad
    sampled = ours.ema_model.network.calls[-2:]
    assert sampled[0]["guess"] is None
    assert sampled[1]["guess"] is not None


def test_levels_cover_the_range_evenly(tmp_path):
    ours = spied(tmp_path, train_batch_size=50)
    ours.train()
    assert ours.diffusion.network.calls[0]["t"].tolist() == list(range(1, 51))


def test_labels_reach_a_network_that_takes_them(tmp_path):
    images, labels = digits().tensors
    ours = trainer(tmp_path, model(network={"num_classes": 10}), train_num_steps=2)
    given = next(ours.batches())[1]
    assert given is not None
    assert torch.equal(given, labels[list(next(iter(ShuffledBatches(1797, 8, 0))).indices)])
    ours.train()
    assert (tmp_path / "samples" / "step-00000002.png").is_file()
    with pytest.raises(ValueError, match="the network takes class labels"):
        trainer(tmp_path / "other", model(network={"num_classes": 10}), TensorDataset(images))


def test_dropout_is_on_in_training_and_off_in_samples(tmp_path):
    ours = trainer(tmp_path, model(network={"dropout": 0.5}))
    with ours.running() as network:
        assert network.training
        assert not ours.ema_model.training
    ours.diffusion.eval()
    ours.train()
    assert not ours.diffusion.training  # put back as it was


def test_before_its_first_update_the_average_is_the_weights(tmp_path):
    ours = trainer(tmp_path, ema_update_every=10, train_num_steps=1)
    ours.train()
    assert torch.equal(weights(ours.ema_model), weights(ours.diffusion))


class OneLayer(torch.nn.Module):
    """The smallest network that can learn: compiled in seconds."""

    channels = 1

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x_t, t, labels=None):  # noqa: ARG002
        return self.layer(x_t) * t.view(-1, 1, 1, 1) / 50


def test_compiled(tmp_path, monkeypatch):
    def run(folder, **settings):
        torch.manual_seed(0)
        diffusion = GaussianDiffusion(OneLayer(), image_size=8, timesteps=50, sampling_timesteps=2)
        ours = trainer(folder, diffusion, train_lr=1e-2, **settings)
        ours.train()
        return ours

    compiled = []
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or compile_(network))
    plain, fast = run(tmp_path / "plain"), run(tmp_path / "compiled", compile=True)
    assert len(compiled) == 1
    torch.testing.assert_close(weights(fast.diffusion), weights(plain.diffusion), rtol=0, atol=1e-6)
    saved = list_checkpoints(tmp_path / "compiled")[-1] / "model.safetensors"
    assert sorted(load(saved.read_bytes())) == ["layer.bias", "layer.weight"]  # and no _orig_mod


def test_workers_change_nothing(tmp_path):
    one, other = trainer(tmp_path / "0"), trainer(tmp_path / "2", num_workers=2)
    one.train()
    other.train()
    assert torch.equal(weights(one.diffusion), weights(other.diffusion))


def test_a_second_part_in_one_program_runs_in_the_same_precision(tmp_path):
    """Bit for bit, and the network is asked for its type in both."""
    ours = spied(tmp_path / "parts", mixed_precision="bf16")
    ours.train()
    ours.train_num_steps = 2
    ours.diffusion.network.calls.clear()
    ours.train()
    trained = [call for call in ours.diffusion.network.calls if call["training"]]
    assert {call["type"] for call in trained} == {torch.bfloat16}
    whole = spied(tmp_path / "whole", mixed_precision="bf16")
    whole.train_num_steps = 2
    whole.train()
    assert torch.equal(weights(ours.diffusion), weights(whole.diffusion))


def test_an_error_in_the_middle_of_a_step_leaves_no_gradient(tmp_path):
    ours, again = trainer(tmp_path / "a"), trainer(tmp_path / "b")
    with ours.running() as network:
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        ours.training_step(network, ours.batches())
    with again.running() as network:
        again.training_step(network, again.batches())
    assert torch.equal(weights(ours.diffusion), weights(again.diffusion))


def test_two_trainers_of_different_precision_in_one_program(tmp_path):
    half, full = trainer(tmp_path / "h", mixed_precision="bf16"), trainer(tmp_path / "f")
    full.train()
    half.train()
    alone = trainer(tmp_path / "again", mixed_precision="bf16")
    alone.train()
    assert torch.equal(weights(half.diffusion), weights(alone.diffusion))
    assert not torch.equal(weights(half.diffusion), weights(full.diffusion))


# What a run keeps


def test_the_record(tmp_path):
    ours = trainer(tmp_path, train_num_steps=6, log_every=2, lr_warmup_steps=2, train_lr=1e-3)
    ours.train()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert [line["images"] for line in lines] == [16, 32, 48]
    assert lines[0]["lr"] == pytest.approx(1e-3 * 2 / 3)
    assert all(math.isfinite(line["loss"]) and line["images_per_second"] > 0 for line in lines)
    assert lines[-1]["seconds"] == pytest.approx(ours.seconds, abs=0.01)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        f"step-{step:08d}.png" for step in (2, 4, 6)
    ]


def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(tmp_path, tensorboard=True).train()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("training/loss")]
    assert logged == [(line["step"], pytest.approx(line["loss"])) for line in read_metrics(tmp_path)]
    assert [image.step for image in events.Images("samples")] == [2, 4]


def test_a_bar_with_loss_rate_and_time_left(tmp_path, capsys):
    trainer(tmp_path, progress=True).train()
    bar = capsys.readouterr().err
    assert re.search(r"100%\|█+\| 4/4 \[\d\d:\d\d<\d\d:\d\d, .*step.*, loss \d\.\d{4}, \d+ img/s\]", bar)


def test_the_cpu_waits_for_the_device_once_per_line(tmp_path, monkeypatch):
    """Reading a tensor's value is what waits. With a line every 10 updates, 10 updates read once."""
    reads = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__"):
        original = getattr(torch.Tensor, name)

        def reading(tensor, *args, original=original, name=name):
            if tensor.is_floating_point():
                reads.append(name)
            return original(tensor, *args)

        monkeypatch.setattr(torch.Tensor, name, reading)
    ours = trainer(tmp_path, train_num_steps=20, log_every=10, save_and_sample_every=100, ema_update_every=1)
    monkeypatch.setattr(ours, "draw_samples", lambda: torch.zeros(1, 8, 8))
    monkeypatch.setattr(ours, "save", lambda: None)
    data = ours.data[next(iter(ShuffledBatches(1797, 8, 0)))]
    monkeypatch.setattr(ours, "batches", lambda: iter(lambda: data, None))
    # A CPU may look at its own shift for the levels; an accelerator's tensors are left alone.
    monkeypatch.setattr("ddpm.training.trainer.stratified_timesteps", lambda *_, **__: torch.arange(1, 9))
    reads.clear()
    ours.train()
    assert reads.count("tolist") == 2
    assert len(reads) == 2, reads


def test_save_and_load_by_step(tmp_path):
    ours = trainer(tmp_path)
    ours.train()
    end = weights(ours.diffusion)
    ours.load(2)
    assert ours.step == 2
    assert not torch.equal(weights(ours.diffusion), end)
    ours.load()
    assert ours.step == 4
    assert torch.equal(weights(ours.diffusion), end)
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint of step 3; it has those of \[2, 4\]"):
        ours.load(3)


CONFIGURATIONS = {
    "plain": {},
    "dropout": {"network": {"dropout": 0.3}},
    "bf16": {"mixed_precision": "bf16"},
    "accumulating": {"gradient_accumulate_every": 2, "ema_update_every": 3},
    "self-conditioned": {"network": {"self_condition": True}},
    "with labels": {"network": {"num_classes": 10}},
    "workers": {"num_workers": 2},
    "random transforms": {"augmented": True},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_run_that_is_taken_up_ends_bit_for_bit_the_same(tmp_path, name):
    settings = dict(CONFIGURATIONS[name])
    shape, augmented = settings.pop("network", None), settings.pop("augmented", False)
    data = pictures(tmp_path / "pictures", 9) if augmented else None

    def make(folder, steps):
        diffusion = model(network={"channels": 3} if augmented else shape)
        return trainer(folder, diffusion, data, train_num_steps=steps, lr_warmup_steps=3, **settings)

    make(tmp_path / "whole", 6).train()
    make(tmp_path / "parts", 3).train()
    torch.manual_seed(99)  # whatever else the program has done meanwhile
    taken_up = make(tmp_path / "parts", 6)
    taken_up.resume()
    assert saved_files(tmp_path / "whole") == saved_files(tmp_path / "parts")
    assert [line["step"] for line in read_metrics(tmp_path / "parts")] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in read_metrics(tmp_path / "parts")] == [
        line["loss"] for line in read_metrics(tmp_path / "whole")
    ]


def test_samples_on_the_way_do_not_disturb_the_run(tmp_path):
    often, seldom = (
        trainer(tmp_path / "o", save_and_sample_every=1),
        trainer(tmp_path / "s", save_and_sample_every=4),
    )
    often.train()
    seldom.train()
    assert saved_files(tmp_path / "o") == saved_files(tmp_path / "s")


def test_lines_of_updates_that_were_lost_are_written_anew(tmp_path):
    ours = trainer(tmp_path)
    ours.train()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    trainer(tmp_path, train_num_steps=5).resume()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[-1]["loss"] != 1.0


def test_a_checkpoint_holds_the_whole_configuration(tmp_path):
    ours = trainer(tmp_path, model(loss_weighting=MinSNR(gamma=4.0)), train_lr=3e-4)
    ours.train()
    config = json.loads((list_checkpoints(tmp_path)[-1] / "config.json").read_text())
    assert Unet(**config["network"]).config == ours.diffusion.network.config
    assert config["diffusion"] == ours.diffusion.config
    assert config["diffusion"]["loss_weighting"] == {"name": "MinSNR", "gamma": 4.0}
    assert config["training"]["train_lr"] == 3e-4
    assert config["data"] == {"source": "TensorDataset", "images": 1797}
    assert torch.__version__.startswith(config["versions"]["torch"])


# What is refused, and what is said


def test_another_model_is_refused_with_the_differences(tmp_path):
    trainer(tmp_path).train()
    other = trainer(tmp_path, model(network={"dropout": 0.2}, objective="pred_noise"))
    with pytest.raises(
        ValueError, match=r"another model: dropout is 0.0 there and 0.2 here; objective is 'pred_v'"
    ):
        other.load()


def test_other_settings_are_said(tmp_path):
    trainer(tmp_path).train()
    with pytest.warns(UserWarning, match=r"goes on with other settings: train_lr was 0.0001 and is 0.001"):
        trainer(tmp_path, train_lr=1e-3, train_num_steps=5).resume()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="train_num_steps"):  # it stretches the cosine
            trainer(tmp_path, lr_schedule="cosine", train_lr=1e-3, train_num_steps=6).load()


def test_a_longer_run_is_no_surprise(tmp_path):
    trainer(tmp_path).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer(tmp_path, train_num_steps=5, log_every=3, num_samples=2).resume()


def test_a_run_set_back_does_not_write_beside_its_future(tmp_path):
    """Its later checkpoints would come out on top at the next resume."""
    trainer(tmp_path).train()
    again = trainer(tmp_path, train_lr=1e-5)
    with pytest.warns(UserWarning, match="train_lr was"):
        again.load(2)
    with pytest.raises(
        FileExistsError, match=r"up to step 4, and this trainer stands at step 2.*delete the later"
    ):
        again.train()
    shutil.rmtree(list_checkpoints(tmp_path)[-1])
    again.train()
    assert torch.equal(weights(GaussianDiffusion.from_pretrained(tmp_path)), weights(again.ema_model))


def half_weight(schedule, t, objective):  # noqa: ARG001 (the interface of weightings)
    return torch.full_like(schedule.snr[t], 0.5)


def test_a_loss_weighting_of_ones_own_is_taken_up(tmp_path):
    trainer(tmp_path, model(loss_weighting=half_weight)).train()
    trainer(tmp_path, model(loss_weighting=half_weight), train_num_steps=5).resume()
    with pytest.raises(ValueError, match=r"loss_weighting is .*half_weight"):
        trainer(tmp_path, model()).load()


def test_another_sampler_is_no_other_model(tmp_path):
    trainer(tmp_path).train()
    trainer(tmp_path, model(sampling_timesteps=3, ddim_sampling_eta=1.0), train_num_steps=5).resume()


def test_a_folder_with_a_run_in_it_is_not_overwritten(tmp_path):
    trainer(tmp_path).train()
    before = saved_files(tmp_path)
    with pytest.raises(FileExistsError, match=r"already holds a run, up to step 4, .*trainer\.resume\(\)"):
        trainer(tmp_path).train()
    assert saved_files(tmp_path) == before


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ({}, {"image_size": 7}, "H and W divisible by 2, but got"),
        ({"out_dim": 3}, {}, "x_t and the network's output must have one shape"),
        (
            {"channels": 3},
            {},
            r"the model takes images of shape \(3, 8, 8\), but .* image number 0 is \(1, 8, 8\)",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_work_starts(tmp_path, network, options, message):
    diffusion = model(network=network, **options)
    data = TensorDataset(torch.zeros(20, 1, 7, 7)) if options else None
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, diffusion, data)


def test_nothing_to_take_up(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no run to resume"):
        trainer(tmp_path).resume()


def test_a_batch_larger_than_the_data(tmp_path):
    data = TensorDataset(digits().tensors[0][:5])
    message = r"train_batch_size=8 on 1 process\(es\) takes more images at a time than the 5 there are; lower it to 5"
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, data=data)
    trainer(tmp_path, data=data, train_batch_size=5).train()


def test_fp16_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match="mixed_precision='fp16' needs an NVIDIA or AMD GPU, and there is none here"
    ):
        trainer(tmp_path, mixed_precision="fp16")


def colour_model(**options):
    return model(network={"channels": 3}, **options)


def test_a_folder_with_a_broken_picture(tmp_path):
    folder = pictures(tmp_path / "pictures", 9)
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    with pytest.warns(UserWarning, match=r"left out: 1 of 10 images in .* cannot be read: .*broken\.png"):
        ours = trainer(tmp_path / "run", colour_model(), folder)
    ours.train()
    assert ours.step == 4


def test_a_picture_that_breaks_while_training(tmp_path):
    folder = pictures(tmp_path / "pictures", 9)
    ours = trainer(tmp_path / "run", colour_model(), folder, train_num_steps=50)
    for path in folder.iterdir():
        if path.name != "0.png":
            path.write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match=r"cannot read the image .*\.png") as caught:
        ours.train()
    assert "No checkpoint had been written yet." in caught.value.__notes__


def test_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no image: none of its 0 files"):
        trainer(tmp_path / "run", colour_model(), str(tmp_path / "empty"))
    with pytest.raises(NotADirectoryError, match="does not exist"):
        trainer(tmp_path / "run", colour_model(), tmp_path / "nowhere")


def test_pictures_smaller_than_the_model(tmp_path):
    folder = pictures(tmp_path / "pictures", 9)
    with pytest.warns(UserWarning, match=r"9 of 9 images .* are smaller than image_size 16×16 .* at most 10"):
        trainer(tmp_path / "run", colour_model(image_size=16), folder).train()


class Faulty(Spy):
    """A network that fails at its third call in training."""

    self_condition = False

    def __init__(self, failure):
        super().__init__()
        self.failure = failure

    def forward(self, x_t, t, labels=None, x_self_cond=None):
        output = super().forward(x_t, t, labels, x_self_cond)
        third = self.training and sum(call["training"] for call in self.calls) == 3
        return self.failure(output) if third else output


def faulty(folder, failure, **settings):
    diffusion = GaussianDiffusion(Faulty(failure), image_size=8, timesteps=50, sampling_timesteps=2)
    return trainer(
        folder, diffusion, **{"train_num_steps": 9, "save_and_sample_every": 2, "log_every": 4} | settings
    )


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    ours = faulty(tmp_path, lambda output: output * math.nan)
    with pytest.raises(
        FloatingPointError, match=r"the loss is nan at step 3: the weights are of no use"
    ) as caught:
        ours.train()
    assert [note for note in caught.value.__notes__ if "The last checkpoint is that of step 2." in note]
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-00000002"]
    kept = load((list_checkpoints(tmp_path)[0] / "model.safetensors").read_bytes())
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values())


def test_an_infinite_gradient_stops_the_run(tmp_path):
    class Explode(torch.autograd.Function):
        @staticmethod
        def forward(_, x):
            return x.clone()

        @staticmethod
        def backward(_, gradient):
            return gradient * math.inf

    with pytest.raises(FloatingPointError, match=r"the gradient's length is (nan|inf) at step 3"):
        faulty(tmp_path, Explode.apply).train()


def test_out_of_memory_says_what_to_lower(tmp_path):
    def no_memory(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    message = (
        r"lower train_batch_size \(now 8\) and raise gradient_accumulate_every \(now 1\) .*mixed_precision='bf16'"
        r".*The last checkpoint is that of step 2.*Tried to allocate"
    )
    with pytest.raises(torch.OutOfMemoryError, match=message):
        faulty(tmp_path, no_memory).train()


class Dying(Dataset):
    """A data set whose reading ends the process that reads it."""

    def __len__(self):
        return 100

    def __getitem__(self, index):
        import os
        import signal

        if index and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1, 8, 8)


def test_a_worker_that_dies(tmp_path):
    ours = trainer(tmp_path, data=Dying(), num_workers=1)
    with pytest.raises(RuntimeError, match=r"a process that loads images died.*lower num_workers \(now 1;"):
        ours.train()


def test_an_error_in_a_worker_is_passed_on(tmp_path):
    folder = pictures(tmp_path / "pictures", 9)
    ours = trainer(tmp_path / "run", colour_model(), folder, num_workers=1)
    for path in folder.iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match=r"cannot read the image .*\.png"):
        ours.train()


def test_a_results_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"results_folder .*file/run cannot be written .*; choose another"):
        trainer(tmp_path / "file" / "run").train()


def test_a_read_only_disk(tmp_path):
    """Refused before the first step."""
    script = f"""
from tests import runs
from tests.io.mounts import run_on_disk
trainer = runs.trainer({str(tmp_path)!r} + "/run")
trainer.training_step = lambda *_: print("began to work")
try:
    trainer.train()
except OSError as error:
    print(error)
"""
    printed = run_on_disk(tmp_path, "ro", script)
    assert "cannot be written (Read-only file system); choose another" in printed
    assert "began to work" not in printed


def test_a_checkpoint_that_cannot_be_written(tmp_path, monkeypatch):
    """The disk fills up on the way: the run ends with the words for it, and the checkpoint before is whole."""
    ours = trainer(tmp_path, train_num_steps=6)
    written = []
    from ddpm.io import checkpoint

    whole = checkpoint.write_synced

    def fills_up(path, content):
        written.append(path)
        if len(written) > 10:
            raise OSError(28, "No space left on device", str(path))
        return whole(path, content)

    monkeypatch.setattr(checkpoint, "write_synced", fills_up)
    with pytest.raises(OSError, match="the disk is full") as caught:
        ours.train()
    assert any("The last checkpoint is that of step 2." in note for note in caught.value.__notes__)
    monkeypatch.undo()
    trainer(tmp_path, train_num_steps=6).resume()
    trainer(tmp_path / "whole", train_num_steps=6).train()
    assert saved_files(tmp_path) == saved_files(tmp_path / "whole")


def test_any_network_that_keeps_the_contract_trains_and_is_taken_up(tmp_path):
    ours = spied(tmp_path)
    ours.train()
    again = spied(tmp_path)
    again.load()
    assert torch.equal(runs.weights(again.diffusion), runs.weights(ours.diffusion))
    with pytest.raises(ValueError, match="a network of class Spy, which only your own program can build"):
        GaussianDiffusion.from_pretrained(tmp_path)


def test_the_signature_is_that_of_the_port_and_more():
    import inspect

    parameters = inspect.signature(Trainer).parameters
    assert list(parameters)[:14] == [
        "diffusion",
        "folder_or_dataset",
        "train_batch_size",
        "gradient_accumulate_every",
        "augment_horizontal_flip",
        "train_lr",
        "train_num_steps",
        "ema_update_every",
        "ema_decay",
        "adam_betas",
        "save_and_sample_every",
        "num_samples",
        "results_folder",
        "mixed_precision",
    ]
    defaults = [16, 1, True, 1e-4, 100_000, 10, 0.995, (0.9, 0.99), 1000, 25, "./results"]
    assert [parameter.default for parameter in list(parameters.values())[2:13]] == defaults


# Memory


@pytest.mark.parametrize("last", [True, False])
def test_channels_lie_in_memory_as_asked(tmp_path, last):
    run = runs.trainer(tmp_path, channels_last=last)
    weight = run.diffusion.network.down[0].block.conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == last
    assert weight.is_contiguous() != last
