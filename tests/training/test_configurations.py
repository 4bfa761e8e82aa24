"""Any configuration that is accepted trains two steps and samples; any other says why, before work starts."""

import math
import tempfile

import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from ddpm import EDM, P2, GaussianDiffusion, MinSNR, Trainer, Unet


def mostly(usual: list, unusual: list) -> st.SearchStrategy:
    """Nearly always one of the usual values, so that about half of the configurations get past every check."""
    return st.integers(0, 59).flatmap(lambda n: st.sampled_from(unusual if n == 59 else usual))


NETWORKS = st.fixed_dictionaries(
    {
        "dim": mostly([4, 8, 16], [0, 6]),
        "init_dim": mostly([None, 8, 16], [5]),
        "out_dim": mostly([None], [3, 0]),
        "dim_mults": mostly([(1,), (1, 2), (2, 1, 1)], [(), (0, 1)]),
        "channels": mostly([1], [0, 2]),
        "self_condition": st.booleans(),
        "learned_variance": st.booleans(),
        "resnet_block_groups": mostly([1, 2, 4], [3, 0]),
        "random_fourier_features": st.booleans(),
        "learned_sinusoidal_cond": mostly([False], [True]),
        "learned_sinusoidal_dim": mostly([2, 8], [3, 0]),
        "num_classes": mostly([None, 4], [0]),
        "attention_resolutions": mostly([None, (), (1,)], [(4,)]),
        "dropout": mostly([0.0, 0.3], [1.0, -0.1]),
        "num_res_blocks": mostly([1, 2], [0]),
        "label_dropout": mostly([0.0, 0.3], [1.0]),
    }
)
DIFFUSIONS = st.fixed_dictionaries(
    {
        "image_size": mostly([4, 8, (4, 8)], [(8, 5), 0]),
        "timesteps": mostly([5, 21], [1, 0]),
        "sampling_timesteps": mostly([None, 1, 3], [100, 0]),
        "loss_type": mostly(["l1", "l2"], ["huber"]),
        "objective": mostly(["pred_noise", "pred_x0", "pred_v", "pred_flow"], ["pred_score"]),
        "beta_schedule": mostly([None, "cosine", "sigmoid", "log-snr", "flow"], ["linear", "quadratic"]),
        "loss_weighting": mostly([None, MinSNR(), P2(), EDM()], ["min-snr"]),
        "ddim_sampling_eta": mostly([0.0, 0.5, 1.0], [1.5]),
    }
)
TRAININGS = st.fixed_dictionaries(
    {
        "train_batch_size": mostly([1, 3, 12], [13, 0]),
        "gradient_accumulate_every": mostly([1, 2], [0]),
        "train_lr": mostly([1e-4, 1e-3], [0.0, math.nan]),
        "ema_update_every": mostly([1, 10], [0]),
        "ema_decay": mostly([0.0, 0.995], [1.0]),
        "extra_ema_decays": mostly([(), (0.9,), [0.5, 0.999]], [(1.0,), (0.9, 0.9)]),
        "gradient_checkpointing": st.booleans(),
        "ema_halflife": mostly([None, 50.0], [-1.0]),
        "ema_rampup": mostly([None, 0.05], [0.0]),
        "adam_betas": mostly([(0.9, 0.99), [0.5, 0.999]], [(0.9,), (1.0, 0.9)]),
        "num_samples": mostly([1, 3], [0]),
        "mixed_precision": mostly(["no", "bf16"], ["fp16", "O1"]),
        "weight_decay": mostly([0.0, 0.1], [-1.0]),
        "lr_warmup_steps": mostly([0, 1, 5], [-1]),
        "lr_schedule": mostly(["constant", "cosine"], ["step"]),
        "max_grad_norm": mostly([1.0, 0.01], [0.0]),
        "save_and_sample_every": mostly([1, 2, 100], [0]),
        "checkpoints_to_keep": mostly([1, 3], [0]),
        "log_every": mostly([1, 2, 100], [0]),
        "channels_last": st.booleans(),
        "seed": mostly([0, 123456789], [-1]),
        "num_threads": mostly([None, 1], [0]),
    }
)
HEIGHTS = {4: (4, 4), 8: (8, 8), (4, 8): (4, 8)}


def images_for(size: object) -> TensorDataset:
    height, width = HEIGHTS.get(size, (8, 8))  # pyright: ignore[reportArgumentType]
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(12, 1, height, width, generator=generator), torch.arange(12) % 4)


def build(network: dict, diffusion: dict, training: dict) -> Trainer | str:
    """The trainer, or why there is none."""
    torch.manual_seed(0)
    try:
        model = GaussianDiffusion(Unet(**network), **diffusion)
        return Trainer(model, images_for(diffusion["image_size"]), **training)
    except (ValueError, TypeError) as refusal:
        return str(refusal)


@settings(max_examples=80)
@given(network=NETWORKS, diffusion=DIFFUSIONS, training=TRAININGS)
def test_configuration_trains_or_is_refused_with_the_reason(network, diffusion, training):
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"results_folder": folder, "progress": False, "tensorboard": False, "train_num_steps": 2}
        trainer = build(network, diffusion, training | quiet)
        if isinstance(trainer, str):
            event("refused")
            # The last is torch 2.6's, of one image whose groups of features hold one number each.
            others = ("images", "time embedding", "beta[", "width", "eta must", "Expected more than 1 value")
            named = [*network, *diffusion, *training, *others]
            assert any(name in trainer for name in named), trainer
            return
        event("trained")
        trainer.train()
        assert trainer.step == 2
        assert all(bool(parameter.isfinite().all()) for parameter in trainer.diffusion.parameters())
        labels = None if network["num_classes"] is None else torch.tensor([0, 3])
        samples = GaussianDiffusion.from_pretrained(folder).sample(2, seeds=[0, 1], labels=labels)
        assert samples.shape == (2, *trainer.diffusion.image_shape)
        assert bool(((samples >= 0) & (samples <= 1)).all())
