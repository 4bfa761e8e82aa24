"""What the package's entry points refuse, one row for each of their arguments: that they ask the guard.

What a guard refuses is in `test_checks`; here are all values of those refusals that an entry point words itself, and
things of another kind, which people pass in. What means something is in `test_inputs`.
"""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ddpm import (
    EDM,
    P2,
    PATHS,
    EmpiricalOracle,
    GaussianDiffusion,
    GaussianMixtureOracle,
    MinSNR,
    NoiseSchedule,
    Unet,
    ancestral,
    ddim,
    dpm_solver_pp,
    encode,
    flow_bits_per_dim,
    flow_log_density,
    heun,
    linear_betas,
    load_diffusers_unet,
    load_pretrained,
    probability_flow,
    reverse_sde,
    save_pretrained,
    stratified_timesteps,
    timestep_grid,
    to_diffusers,
    to_image_scale,
    to_model_scale,
)
from ddpm.gaussians import condition, discretized_log_likelihood
from ddpm.likelihood import vlb_terms
from ddpm.reverse_process import variance_rule
from ddpm.sampler_choice import choose
from ddpm.schedule import default_schedule
from ddpm.support import keywords
from ddpm.support.randomness import image_generators
from ddpm.unet_blocks import SinusoidalEmbedding
from ddpm.weighting import noise_level_density, weighting_from_config
from tests.networks import BETAS, SMALL_UNET, Classed, Pointwise, SelfConditioned, diffusion_of, seeded
from tests.runs import trainer

nan, inf = math.nan, math.inf
X, T, MASK = torch.zeros(2, 1, 4, 4), torch.tensor([1, 50]), torch.tensor([True, False])
ARRAY, LISTS, PICTURE = X.numpy(), X.tolist(), Image.new("L", (4, 4))
NETWORKS = [Pointwise(), SelfConditioned(), Classed()]
PLAIN, CONDITIONED, FREE = map(diffusion_of, NETWORKS)
CLASSED = diffusion_of(Unet(**SMALL_UNET, num_classes=3))
SPOILT = Unet(**SMALL_UNET)
nn.init.constant_(SPOILT.last.weight, nan)
SCHEDULE = NoiseSchedule([0.1, 0.2])
ORACLE = EmpiricalOracle(SCHEDULE, X)
SMALL_WITH = {"learned_sinusoidal_cond": True, **SMALL_UNET}
ONES, ONE = torch.ones(2, 2, 2), torch.tensor([True, False, False])
CLASSES = torch.tensor([0, 2])


def given(function, **good):
    """The function with arguments that it takes, of which a row replaces one."""
    return lambda **bad: function(**(good | bad))


def first(walk, **good):
    """The first state of a walk, with arguments that it takes."""
    return given(lambda **how: next(walk(**how)), diffusion=PLAIN, x=X, **good)


CALLS = {
    "diffusion": diffusion_of,
    "diffusion with classes": given(diffusion_of, network=CLASSED.network),
    "GaussianDiffusion": given(GaussianDiffusion, image_size=8),
    "forward": given(PLAIN, images=X),
    "predict": given(PLAIN.predict, x_t=X, t=T),
    "told predict": given(CONDITIONED.predict, x_t=X, t=T),
    "classed predict": given(CLASSED.predict, x_t=X, t=T),
    "loss": given(PLAIN.loss, x0=X),
    "told loss": given(CONDITIONED.loss, x0=X),
    "classed loss": given(CLASSED.loss, x0=X),
    "loss without classes": given(FREE.loss, x0=X),
    "loss with classes": given(FREE.loss, x0=X, labels=[0, 1]),
    "loss with classes, no mask": given(CLASSED.loss, x0=X, labels=[0, 1]),
    "q_sample": given(PLAIN.q_sample, x_start=X, t=T, noise=X),
    "q_posterior": given(PLAIN.q_posterior, x_start=X, x_t=X, t=T),
    "predict_v": given(PLAIN.predict_v, x_start=X, t=T, noise=X),
    "p_sample": given(PLAIN.p_sample, x_t=X, t=T),
    "sample": given(PLAIN.sample, batch_size=2),
    "sample with 5 steps": given(PLAIN.sample, batch_size=2, sampling_timesteps=5),
    "sample with seeds": given(PLAIN.sample, batch_size=2, seeds=[1, 2]),
    "classed sample": given(CLASSED.sample, batch_size=2),
    "sample with classes": given(CLASSED.sample, batch_size=2, labels=[0, 1]),
    "interpolate": given(PLAIN.interpolate, x1=X, x2=X),
    "vlb_terms": given(vlb_terms, diffusion=PLAIN, x0=torch.ones(2, 1, 4, 4)),
    "vlb_terms, density": given(vlb_terms, diffusion=PLAIN, x0=X, decoder="continuous"),
    "ancestral": first(ancestral),
    "ddim": first(ddim, steps=5),
    "heun": first(heun, steps=5),
    "dpm++": first(dpm_solver_pp, steps=5),
    "encode": first(encode, steps=5),
    "timestep_grid": given(timestep_grid, schedule=PLAIN.schedule),
    "timestep_grid of T": given(timestep_grid, schedule=50, steps=5),
    "choose": given(choose, sampler=None, steps=50, timesteps=50, own={}),
    "choose ancestral": given(choose, sampler="ancestral", steps=50, timesteps=50, own={}),
    "choose dpm++": given(choose, sampler="dpm++", steps=5, timesteps=50, own={}),
    "variance": given(variance_rule, diffusion=PLAIN),
    "generators": given(image_generators, batch_size=2),
    "seeds": given(image_generators, batch_size=2, seeds=[1, 2]),
    "MinSNR": MinSNR,
    "P2": P2,
    "EDM": EDM,
    "density": noise_level_density,
    "probability flow": first(probability_flow, steps=5),
    "sde": first(reverse_sde, steps=5),
    "flow density": given(flow_log_density, diffusion=PLAIN, x_1=X, steps=5),
    "flow bits": given(flow_bits_per_dim, diffusion=PLAIN, x0=X, steps=5),
    "place": given(PATHS["flow"].at, schedule=PLAIN.schedule, x=X),
    "from velocity": given(PATHS["flow"].at(PLAIN.schedule, 3).prediction, z=X, velocity=X),
    "weighting": weighting_from_config,
    "stratified": given(stratified_timesteps, count=4, timesteps=10),
    "condition": given(
        condition, mean=torch.zeros(3), covariance=torch.eye(3), observed=ONE, value=torch.zeros(1)
    ),
    "bins": given(discretized_log_likelihood, mean=X, log_variance=X),
    "to_model_scale": to_model_scale,
    "to_image_scale": to_image_scale,
    "schedule": NoiseSchedule,
    "linear schedule": lambda timesteps: NoiseSchedule(linear_betas(timesteps)),
    "from_name": given(NoiseSchedule.from_name, name="cosine", timesteps=10),
    "default_schedule": default_schedule,
    **{name: given(betas) for name, betas in BETAS.items()},
    "empirical": given(EmpiricalOracle, schedule=SCHEDULE, images=X),
    "oracle": given(ORACLE.predict, x_t=X, t=T),
    "mixture": given(
        GaussianMixtureOracle, schedule=SCHEDULE, means=[[0.0, 0.0], [1.0, 1.0]], covariances=[0.1, 0.1]
    ),
    "marginal": GaussianMixtureOracle(SCHEDULE, [[0.0]], [0.1]).marginal,
    "sample_data": GaussianMixtureOracle(SCHEDULE, [[0.0]], [0.1]).sample_data,
    "SinusoidalEmbedding": SinusoidalEmbedding,
    "Unet": given(Unet, **SMALL_WITH),
    "Unet.forward": given(Unet(**SMALL_UNET), x_t=X, t=T),
    "told Unet.forward": given(Unet(**SMALL_UNET, self_condition=True), x_t=X, t=T),
    "Unet.forward with classes": given(CLASSED.network, x_t=X, t=T),
    "Unet.forward with no class": given(Unet(**SMALL_UNET, num_classes=3, label_dropout=0.1), x_t=X, t=T),
    "save": given(save_pretrained, diffusion=CLASSED, folder="there"),
    "load": given(load_pretrained, name_or_folder="digits"),
    "to_diffusers": to_diffusers,
    "load_diffusers_unet": load_diffusers_unet,
    "trainer": given(trainer, folder="there"),
}
FIXED = "unknown variance 'learned'; .* 'fixed_small', 'fixed_large'$"
WHOLE = "must be a whole number of at least 1, but got"
STEPS = "sampling_timesteps must be a whole number in 1 … 50, but got"
SAMPLERS = r"unknown sampler 'euler'; .* 'ancestral', 'ddim', 'heun', 'dpm\+\+'$"
SPACINGS = "unknown spacing .*; choose one of 'even', 'log-snr', 'karras', 'quadratic'$"
ON_GRIDS = ["ddim", "heun", "dpm++", "encode"]
OFF_ENDS = [[], [50], [0], [50, 9], [49, 9, 0], [51, 9, 0]]
NOT_FALLING = [[50, 9, 9, 0], [50, 9, 20, 0], [50, 0, -1], [50, -5, 0]]
IMAGES = r"must be a floating-point tensor of shape \(B, "
NO_COVARIANCE = [[0.1, nan], [[0.1, 0.1], [0.1, inf]], nan * ONES]
BAD_CLASSES = [CLASSES[:1], CLASSES[:, None], CLASSES.float(), CLASSES.byte(), CLASSES + 1, CLASSES - 1]
ROWS = [
    (
        "diffusion",
        "objective",
        ["pred_eps", None],
        "objective .*'pred_noise', 'pred_x0', 'pred_v', 'pred_flow'$",
    ),
    ("diffusion", "loss_type", ["huber", 2], "unknown loss_type .*; .* 'l1', 'l2'$"),
    (
        "diffusion",
        "beta_schedule",
        ["cubic", ["linear"]],
        "schedule .*'linear', 'cosine', 'sigmoid', 'log-snr', 'flow'$",
    ),
    (
        "diffusion",
        "beta_schedule",
        [torch.ones(50)],
        r"unknown beta_schedule torch.Tensor of .* shape \(50,\);",
    ),
    ("diffusion", "timesteps", [0, 10.5, "1000"], f"timesteps {WHOLE}"),
    ("diffusion", "sampling_timesteps", [0, 51], STEPS),
    ("diffusion", "ddim_sampling_eta", [-0.1, 1.1], r"eta must lie in \[0, 1\].*but got"),
    ("diffusion", "image_size", [(8, 0)], r"image_size must be .* but got \(8, 0\)"),
    (
        "diffusion",
        "image_size",
        [4.0, np.array([4, 4, 1])],
        "image_size must be one whole number >= 1 or a pair",
    ),
    ("diffusion", "network", [nn.Identity(), Pointwise(channels=0)], "in an attribute `channels`"),
    ("forward", "images", [X[0]], r"; a single image is a batch of one, images\[None\]"),
    ("forward", "images", [X.permute(0, 2, 3, 1)], r"channels come first, images.permute\(0, 3, 1, 2\)"),
    ("forward", "images", [X[..., :3]], r"shape \(B, 1, 4, 4\), but got .*\(2, 1, 4, 3\)"),
    ("forward", "images", [X[:0]], "images must hold at least one image"),
    (
        "forward",
        "images",
        [X.byte()],
        rf"images {IMAGES}.*but got torch.uint8.*; 8-bit pixels are images.float\(\) / 255",
    ),
    ("forward", "images", [X - 1], r"must lie in \[0, 1\], but .* -1 to -1; .*`loss` takes"),
    ("predict", "x_self_cond", [X], "x_self_cond is for a network with self-conditioning"),
    ("told predict", "x_self_cond", [X[:1]], "x_t and x_self_cond must have one shape"),
    ("loss", "self_condition_mask", [MASK], "mask is for a network with self-conditioning"),
    ("told loss", "self_condition_mask", [MASK.float(), MASK[:1], [1, 0]], "one truth value per image"),
    ("loss", "x0", [X.byte(), X.long()], "x0 must be a floating-point tensor"),
    ("sample", "sampling_timesteps", [51, "10"], STEPS),
    ("sample", "eta", [1.1, "1", np.array([0, 1])], r"eta must lie in \[0, 1\].*but got"),
    ("diffusion", "sampler", ["euler"], SAMPLERS),
    ("diffusion", "spacing", ["odd", None], SPACINGS),
    ("sample", "sampler", ["euler"], SAMPLERS),
    ("sample", "variance", ["learned", torch.ones(3)], "unknown variance|a table of variances"),
    ("sample with 5 steps", "spacing", ["odd"], SPACINGS),
    ("sample", "batch_size", [0, "4", 2.0, np.float64(2), np.array([2]), np.True_], f"batch_size {WHOLE}"),
    ("sample", "seeds", [[1, 2, 3]], "batch_size is 2, but got 3 seeds"),
    ("sample with seeds", "generator", [seeded(0)], "not both"),
    ("interpolate", "t", [0, 51, 2.0], "t must be a whole number in 1 … 50, but got"),
    (
        "interpolate",
        "lam",
        [1.1, None, [0.5]],
        r"lam must lie in \[0, 1\]: 0 is all x1, 1 is all x2; but got",
    ),
    ("interpolate", "x2", [X[:1]], "x1 and x2 must have one shape"),
    ("vlb_terms", "x0", [X[0]], f"x0 {IMAGES}C, H, W"),
    ("vlb_terms", "x0", [X[:0]], "at least one image"),
    ("vlb_terms", "x0", [X + 127], r"scaled to \[-1, 1\]"),
    ("vlb_terms", "x0", [X + 0.5], "exact 8-bit pixels"),
    ("vlb_terms, density", "x0", [X + nan, X + inf], "only finite values"),
    ("vlb_terms, density", "x0", [X - 1.5], "give clip_x0=False"),
    ("vlb_terms", "timesteps_per_image", [0, 50], "_per_image must be a whole number in 1 … 49"),
    ("vlb_terms", "decoder", ["4-bit"], "unknown decoder '4-bit'; .* '8-bit', 'continuous'$"),
    ("vlb_terms", "variance", ["learned"], FIXED),
    ("vlb_terms", "labels", [torch.arange(3)], r"labels must hold one whole number per image, shape \(2,\)"),
    ("vlb_terms", "batch_size", [0], f"batch_size {WHOLE} 0"),
    ("vlb_terms", "seeds", [[1]], "seeds must hold one number per image"),
    ("ancestral", "start", [0, 51, 2.5], "start must be a whole number in 1 … 50, but got"),
    ("ancestral", "variance", ["learned"], FIXED),
    *((name, "steps", [0, 51, 2.5, None], STEPS) for name in ON_GRIDS),
    *((name, "steps", OFF_ENDS, r"strictly from 50 \(T\) to 0") for name in ON_GRIDS),
    *((name, "steps", [*NOT_FALLING, [0, 9, 50]], "fall strictly") for name in ON_GRIDS),
    *((name, "spacing", ["odd", None, 2], SPACINGS) for name in [*ON_GRIDS, "timestep_grid of T"]),
    ("ddim", "eta", [-0.1, 1.1, nan, inf], r"eta must lie in \[0, 1\]: 0 is deterministic, 1 is"),
    ("timestep_grid", "steps", [0, 51, 10.0], STEPS),
    ("choose", "steps", [0, 51, True], STEPS),
    ("timestep_grid of T", "schedule", [0, 10.5], f"timesteps {WHOLE}"),
    ("timestep_grid of T", "spacing", ["log-snr"], "needs the schedule, .* but got only T$"),
    ("choose", "sampler", ["euler"], SAMPLERS),
    ("choose ancestral", "steps", [49], "all T = 50 timesteps, but 49 steps were asked for"),
    ("choose ancestral", "eta", [0.5], "^eta is for sampler 'ddim', but the sampler is 'ancestral'$"),
    ("choose ancestral", "spacing", ["even"], "^spacing is for sampler 'ddim' or 'heun' or 'dpm\\+\\+', but"),
    ("choose dpm++", "eta", [0.0], "^eta is for sampler 'ddim', but the sampler is 'dpm\\+\\+'$"),
    ("choose dpm++", "variance", ["learned"], "^variance is for sampler 'ancestral', but"),
    ("variance", "variance", ["learned"], FIXED),
    ("variance", "variance", [T.float()], r"shape \(51,\), that is T\+1,.* but got shape \(2,\)"),
    ("variance", "variance", [torch.arange(51) * torch.eye(51)[7]], r"positive and finite for t = 1 … 50"),
    ("variance", "variance", [-torch.ones(51), torch.ones(51) * nan, torch.ones(51) * inf], "positive and"),
    ("variance", "variance", [1 / (50 - torch.arange(51.0))], "positive and finite"),
    ("generators", "batch_size", [0], f"batch_size {WHOLE} 0"),
    ("seeds", "generator", [seeded(0)], "either `generator` .* or `seeds` .* not both"),
    ("generators", "seeds", [[1, 2, 3], []], "batch_size is 2, but got [30] seeds"),
    ("MinSNR", "gamma", [0, nan, "5"], "MinSNR needs gamma > 0, but got"),
    ("P2", "gamma", [-1.0, nan, None], "P2 needs gamma >= 0 and k >= 0, but got"),
    ("P2", "k", [-1.0], "P2 needs gamma >= 0 and k >= 0, but got"),
    ("weighting", "config", [{"name": "SNR"}, {"k": 5.0}, {"name": ["P2"]}], "unknown .*MinSNR, P2, EDM"),
    ("EDM", "sigma_data", [0, nan], "sigma_data must be a number above 0, but got"),
    ("EDM", "std", [-1.0], "std must be a number above 0, but got"),
    ("EDM", "mean", [inf], "mean must be a number, but got inf"),
    ("density", "schedule", [NoiseSchedule([0.5])], "needs T of at least 2, but the schedule has T = 1"),
    ("probability flow", "path", ["ve", None], "unknown path .*; choose one of 'vp', 'edm', 'flow'$"),
    ("probability flow", "order", [0, 3, 1.0], "order must be a whole number in 1 … 2, but got"),
    ("sde", "eta", [-0.1, nan], "eta must be a number at least 0, but got"),
    *((name, "steps", [0, 51], STEPS) for name in ("probability flow", "sde")),
    *((name, "steps", OFF_ENDS, "must fall strictly from 50") for name in ("probability flow", "sde")),
    ("flow density", "x_1", [X[0], X.byte()], f"x_1 {IMAGES}"),
    ("flow density", "steps", [0, 50], "steps must be a whole number in 1 … 49, but got"),
    ("flow density", "probes", [0, 1.5], f"probes {WHOLE}"),
    ("flow density", "path", ["ve"], "unknown path 've'"),
    ("flow bits", "x0", [X], "x0 must hold exact 8-bit pixels"),
    ("place", "t", [-1, 51], "t must be a whole number in 0 … 50, but got"),
    ("place", "t", [T + 50, T - 2], "t must lie in 0 … 50"),
    ("from velocity", "velocity", [X[:1]], "z and velocity must have one shape"),
    ("weighting", "config", [{"name": "MinSNR", "gamma": -1.0}], "needs gamma > 0, but got -1.0"),
    ("weighting", "config", [{"name": "MinSNR", "k": 1.0}], r"MinSNR takes gamma, but got \['k'\]"),
    ("weighting", "config", [{"name": "P2", "gama": 1.0}], r"gamma and k, but got \['gama'\]"),
    ("stratified", "count", [0], f"count {WHOLE}"),
    ("stratified", "timesteps", [0], f"timesteps {WHOLE}"),
    ("stratified", "shift", [1.0, -0.1, "0"], r"shift must lie in \[0,"),
    ("condition", "covariance", [torch.eye(2)], r"covariance of shape \(3, 3\).*but got \(2, 2\)"),
    ("condition", "observed", [MASK, ONE.long()], r"boolean mask of shape \(3,\).*but got"),
    ("condition", "observed", [ONE | True, ONE & False], "got [03] observed"),
    ("condition", "value", [torch.zeros(2)], r"got 1 observed and values of shape \(2,\)"),
    ("bins", "x", [X], "x must hold exact 8-bit pixels"),
    ("schedule", "betas", [[], 0.1, [[0.1, 0.2]]], r"shape \(T,\) with T >= 1, but got shape \("),
    ("schedule", "betas", [[0.1, 0.0, 0.2]], r"beta\[2\] is 0 \(T = 3\)"),
    ("schedule", "betas", [[1.0], [inf], [nan], [-0.1, 2.0]], r"beta\[1\] is (1|inf|nan|-0.1) "),
    *(("linear schedule", "timesteps", [t], rf"beta\[{t}\] is .*T > 20") for t in (1, 2, 20)),
    *((name, "timesteps", [10.0], f"timesteps {WHOLE} 10.0") for name in [*BETAS, "from_name"]),
    ("default_schedule", "timesteps", [10.0], f"timesteps {WHOLE} 10.0"),
    ("empirical", "images", [X[0], X.byte()], f"images {IMAGES}C, H, W"),
    ("empirical", "images", [X + 1.01, X - 255, X + nan], r"images must lie in \[-1, 1\]"),
    ("empirical", "images", [X[:0]], "must be at least one"),
    ("empirical", "chunk_size", [0], f"chunk_size {WHOLE}"),
    ("mixture", "means", [[0.0, 1.0], [[0.0, nan], [1.0, 1.0]]], r"finite .* shape \(K, D"),
    ("mixture", "covariances", [[0.1], torch.ones(2, 3)], r"shape \(2, 2, 2\).*but got \("),
    ("mixture", "covariances", NO_COVARIANCE, "need finite covariances of shape"),
    ("mixture", "covariances", [[0.1, 0.0]], "positive definite.*component 1 is 0;.*multiple of"),
    ("mixture", "covariances", [[0.1, -0.1], 0 * ONES, ONES], "positive definite.*component"),
    ("mixture", "covariances", [[[[1.0, 2.0], [2.0, 1.0]]] * 2], "component 0 is -1;"),
    ("mixture", "covariances", [[[[1.0, 0.5], [0.4, 1.0]]] * 2], "symmetric, .* by up to 0.1"),
    ("mixture", "weights", [[0.5, 0.4], [1.5, -0.5], [nan, 1.0]], "not negative and of sum 1"),
    ("mixture", "weights", [[1.0], [0.5, 0.25, 0.25]], "must be 2 numbers, one per mean"),
    ("mixture", "classes", [[0], [0, 2], [1, 1]], "classes must be one for each of 2 components, 0, 1, 2, …"),
    ("mixture", "classes", [[0, -1], [0.0, 1.0], 2], "classes must be a list of whole numbers of at least 0"),
    ("mixture", "shape", [(1, 3, 1), (2,), (-1, -2, 1), 1], r"\(C, H, W\) with C·H·W = 2"),
    ("marginal", "t", [-1, 3], "t must be a whole number in 0 … 2, but got"),
    ("sample_data", "count", [0], f"count {WHOLE}"),
    ("SinusoidalEmbedding", "dim", [0, 2, 7], "an even dimension of at least 4, but got [027]"),
    ("Unet", "dim_mults", [()], "dim_mults must name at least one resolution"),
    ("Unet", "resnet_block_groups", [0, 3, 16], r"multiple of resnet_block_groups=[0-9]+, but"),
    ("Unet", "init_dim", [6, 0], r"multiple of resnet_block_groups=4, but \[[60]\] are not"),
    ("Unet", "dim_mults", [(1, 0)], r"but \[0\] are not"),
    ("Unet", "attention_resolutions", [(4, 1), (4,)], r"\[4\] do not exist here.* factors \[1, 2\]"),
    ("Unet", "dropout", [1.0, -0.1, nan, "0.1"], r"dropout must lie in \[0, 1\), but got"),
    ("Unet", "label_dropout", [1.0, -0.1, nan, "0.1"], r"label_dropout must lie in \[0, 1\), but got"),
    ("Unet", "label_dropout", [0.1], "label_dropout=0.1 is for a network with classes: give num_classes"),
    ("Unet", "learned_sinusoidal_dim", [0, 1, 7], "_dim must be even and at least 2, but got"),
    ("Unet", "random_fourier_features", [True], "_cond and random_fourier_features are two .* choose one"),
    *(
        ("Unet", name, [0], f"{name} {WHOLE}")
        for name in ("num_res_blocks", "channels", "out_dim", "num_classes")
    ),
    ("Unet.forward", "x_t", [X[..., :3], X[:, :, :3], X[:, [0, 0]], X[0]], r"\(B, 1, H, W\).*divisible by 2"),
    ("Unet.forward", "t", [T[:1], T[:, None], T[0]], r"one timestep per image, shape \(2,\), but got \("),
    ("Unet.forward", "x_self_cond", [X], "built without self_condition and takes no x_self_cond"),
    ("told Unet.forward", "x_self_cond", [X[:1], X[..., :2]], r"must be shaped like x_t, \(2, 1"),
    ("Unet.forward", "labels", [CLASSES], "built without num_classes and takes no labels"),
    (
        "Unet.forward with classes",
        "labels",
        [None, [1, 2], *BAD_CLASSES],
        r"labels of shape \(2,\), whole numbers in 0 … 2",
    ),
    (
        "Unet.forward with no class",
        "labels",
        [torch.tensor([0, 4])],
        "in 0 … 2, or 3 for none, .* from 0 to 4",
    ),
    # Of another kind
    ("diffusion with classes", "class_names", [["a", "b"]], "one for each class, .* 2; .* has 3 classes"),
    (
        "diffusion with classes",
        "class_names",
        ["abc", ["a", "b", "a"], [1, 2, 3]],
        "a list of different words, but",
    ),
    ("diffusion", "class_names", [["a"]], r"but got 1; the network has no classes \(num_classes\)"),
    (
        "predict",
        "t",
        [[1, 2.5], np.array([1.0, 2.0])],
        "t must hold one whole number per image, .* got torch.float",
    ),
    ("predict", "t", [[0, 51]], "t must lie in 1 … 50 .* from 0 to 51"),
    (
        "classed sample",
        "labels",
        [[1], torch.eye(3)[:2]],
        r"labels must hold one whole number per image, shape \(2,\)",
    ),
    ("classed loss", "labels", [T > 1], "one whole number per image, .* torch.bool"),
    ("classed loss", "labels", [[0, 3]], "whole numbers in 0 … 2, but got values from 0 to 3"),
    ("classed sample", "labels", [None], "this network needs labels .* but got None"),
    ("sample with classes", "guidance", [2], "guidance 2 needs a model that was also trained without"),
    (
        "loss without classes",
        "label_mask",
        [[True, False]],
        "label_mask is for labels, of a network with label_drop",
    ),
    ("loss with classes, no mask", "label_mask", [[True, False]], "of a network with label_dropout"),
    ("loss with classes", "label_mask", [[1, 0]], "label_mask must hold one truth value per image"),
    (
        "sample",
        "seeds",
        [7, "12", {1, 2}],
        r"seeds must be a list .* one per image, such as range\(2\), but got",
    ),
    ("sample", "seeds", [[1.5, 2], [2**64, 2]], "each of seeds must be a whole number in .* got"),
    ("to_model_scale", "images", [X.byte()], r"torch.uint8; 8-bit pixels are images.float\(\)"),
    ("Unet", "dim", [8.0, "8"], f"dim {WHOLE}"),
    ("Unet", "dim_mults", [2, (1, 1.5)], "dim_mults must be a list of whole numbers .* but got"),
    ("Unet", "attention_resolutions", [2], "attention_resolutions must be a list of whole numbers"),
    ("Unet", "learned_variance", ["yes"], "learned_variance must be True or False, but got 'yes'"),
    ("Unet", "self_condition", [1], "self_condition must be True or False, but got 1"),
    ("Unet.forward", "x_t", [X.byte()], "x_t must be a floating-point tensor, but got torch.uint8"),
    ("load", "weights", ["average"], "unknown weights 'average'; .*'ema', 'model'"),
    (
        "save",
        "checked_precisions",
        [["float16"]],
        "unknown checked precision 'float16'; choose one of 'bf16', 'fp16'",
    ),
    ("save", "dtype", ["float16"], "such as torch.float16, but got 'float16'"),
    (
        "to_diffusers",
        "unet",
        [SPOILT],
        r"some weights are not finite \(NaN\): last.weight; the model diverged",
    ),
]
TENSORS = [(call, "x") for call in ("bins", "ancestral", "ddim", "encode", "to_image_scale")]
TENSORS += [(call, "x_t") for call in ("predict", "q_posterior", "oracle", "Unet.forward with classes")]
TENSORS += [("loss", "x0"), ("loss", "noise"), ("told predict", "x_self_cond"), ("q_sample", "x_start")]
TENSORS += [("predict_v", "noise"), ("interpolate", "x1"), ("interpolate", "x2"), ("vlb_terms", "x0")]
TENSORS += [("empirical", "images"), ("to_model_scale", "images")]
GENERATORS = ["sample", "loss", "p_sample", "interpolate", "vlb_terms", "stratified", "ddim", "heun", "dpm++"]
NETWORK = r"got a Unet; .* GaussianDiffusion\(network"
NAME_OR_FOLDER = "by its name or its folder, but got a "
TYPE_ROWS = [
    (
        "diffusion",
        "auto_normalise",
        [False],
        r"GaussianDiffusion has no 'auto_normalise': help\(GaussianDiffusion\)",
    ),
    ("diffusion", "timestep", [5], "GaussianDiffusion has no 'timestep': did you mean timesteps"),
    ("Unet", "droput", [0.1], "Unet has no 'droput': did you mean dropout"),
    *(("diffusion", word, [1], f"^GaussianDiffusion has no '{word}': ") for word in keywords.DIFFUSION),
    *(("Unet", word, [1], f"^Unet has no '{word}': .*(write|leave it out)") for word in keywords.UNET),
    ("forward", "images", [ARRAY], "images must be a tensor, but got numpy.ndarray of float32 and shape"),
    ("forward", "images", [LISTS], r"images must be a tensor, .*torch.as_tensor\(…, dtype=torch.float32\)"),
    ("forward", "images", [PICTURE, "a.png", None], "images must be a tensor, but got (<PIL|'a.png'|None)"),
    *((call, name, [ARRAY, LISTS, PICTURE], f"{name} must be a tensor, but got") for call, name in TENSORS),
    *(
        (call, "generator", [0], "generator must be a torch.Generator, but got 0; .*seed")
        for call in GENERATORS
    ),
    *(
        (call, "generator", [[0, 1]], "generator must be a torch.Generator, but got 0")
        for call in GENERATORS[-3:]
    ),
    ("loss", "generator", [np.random.default_rng(0)], "generator must be a torch.Generator"),
    (
        "predict",
        "t",
        [3, np.int64(3)],
        r"one timestep per image, torch.full\(\(2,\), 1 … T\), but got (np.int64\()?3",
    ),
    ("predict", "t", ["12", ["1", "2"], None], "t must be a tensor with one timestep per image, .* but got"),
    *((call, "t", [1], "t must be a tensor with one timestep per image") for call in ("loss", "oracle")),
    ("Unet.forward with classes", "t", [[1, 2]], r"t must be a tensor, but got \[1, 2\]"),
    (
        "classed sample",
        "labels",
        [1, ["cat", "dog"]],
        r"labels must be None, .* torch.full\(\(2,\), 3\), but got",
    ),
    ("classed predict", "labels", [{"class": 1}], "labels must be None, or a tensor with one class"),
    ("told loss", "self_condition_mask", [True], "one truth value per image, .* but got True"),
    (
        "ddim",
        "steps",
        ["50", np.array([50.0, 0.5, 0]), [50, 10.5, 0]],
        "must be whole numbers that fall strictly",
    ),
    ("schedule", "betas", [["a"], None], "betas must be numbers, as a tensor, an array or a list"),
    ("mixture", "means", ["ab"], "means must be numbers, .* but got 'ab'"),
    ("mixture", "weights", [{}], "weights must be numbers"),
    ("variance", "variance", [["small"]], r"variance, .* must be numbers, .* got \['small'\]"),
    ("GaussianDiffusion", "network", [Unet, "unet"], r"must be a torch.nn.Module, such as Unet\(64\)"),
    *((call, "diffusion", [CLASSED.network], NETWORK) for call in ("ancestral", "ddim", "vlb_terms")),
    *(
        (call, "diffusion", [CLASSED.network], "takes a GaussianDiffusion, but got a Unet")
        for call in ("save", "trainer")
    ),
    ("load", "name_or_folder", [None, CLASSED], f"{NAME_OR_FOLDER}(NoneType|GaussianDiffusion); .*'digits'"),
    ("to_diffusers", "unet", [CLASSED], "only a Unet has a counterpart in diffusers"),
    (
        "load_diffusers_unet",
        "path_or_state_dict",
        [5],
        "a folder, a name on the .* Hub or a mapping .*, but got 5",
    ),
    (
        "diffusion",
        "loss_weighting",
        [{"name": "MinSNR"}],
        "must be None or a weighting .* weighting_from_config",
    ),
]
EVERY = [(ValueError, *row) for row in ROWS] + [(TypeError, *row) for row in TYPE_ROWS]


@pytest.mark.parametrize(("error", "call", "argument", "values", "message"), EVERY)
def test_what_does_not_fit_is_refused_before_a_network_is_asked(
    error, call, argument, values, message, tmp_path, monkeypatch
):
    """Or anything written."""
    monkeypatch.chdir(tmp_path)
    for value in values:
        with pytest.raises(error, match=message):
            CALLS[call](**{argument: value})
    assert [network.calls for network in NETWORKS] == [[], [], []]
    assert list(tmp_path.iterdir()) == []
    assert PLAIN.training
    assert CONDITIONED.training
