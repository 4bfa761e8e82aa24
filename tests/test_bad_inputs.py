"""What cannot be meant is refused, before anything is computed or written, in words that say what to write.

Here are things of another kind. What is out of range or of another shape is in `test_refusals`.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm import (
    EDM,
    P2,
    ClassifierFreeGuidance,
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
    load_diffusers_unet,
    load_pretrained,
    save_pretrained,
    stratified_timesteps,
    to_diffusers,
    to_image_scale,
    to_model_scale,
)
from ddpm.gaussians import discretized_log_likelihood
from ddpm.likelihood import vlb_terms
from ddpm.reverse_process import variance_rule
from ddpm.training.config import TrainingConfig
from tests.networks import SMALL_UNET, Pointwise, SelfConditioned, diffusion_of
from tests.runs import trainer

X, T = torch.zeros(2, 1, 4, 4), torch.tensor([1, 50])
ARRAY, ROWS, PICTURE = X.numpy(), X.tolist(), Image.new("L", (4, 4))
NETWORKS = [Pointwise(), SelfConditioned()]
PLAIN, TOLD = map(diffusion_of, NETWORKS)
CLASSED = GaussianDiffusion(
    Unet(**SMALL_UNET, num_classes=3), image_size=4, timesteps=50, sampling_timesteps=2
)
FREE = GaussianDiffusion(
    Unet(**SMALL_UNET, num_classes=3, label_dropout=0.1), image_size=4, timesteps=50, sampling_timesteps=2
)
SCHEDULE = NoiseSchedule([0.1, 0.2])
ORACLE = EmpiricalOracle(SCHEDULE, X)
MIXTURE = {"means": [[0.0], [1.0]], "covariances": [0.1, 0.1]}
EACH = [torch.Generator(), torch.Generator()]

TYPE_ERRORS = [
    (lambda: PLAIN(ARRAY), r"images must be a tensor, but got numpy.ndarray of float32 and shape"),
    (lambda: PLAIN(ROWS), r"images must be a tensor, .*torch.as_tensor\(…, dtype=torch.float32\)"),
    (lambda: PLAIN(PICTURE), "images must be a tensor, but got <PIL"),
    (lambda: PLAIN("a.png"), "images must be a tensor, but got 'a.png'"),
    (lambda: PLAIN(None), "images must be a tensor, but got None"),
    (lambda: PLAIN.loss(ARRAY), "x0 must be a tensor"),
    (lambda: PLAIN.loss(X, T, ARRAY), "noise must be a tensor"),
    (lambda: PLAIN.predict(ARRAY, T), "x_t must be a tensor"),
    (lambda: TOLD.predict(X, T, x_self_cond=ARRAY), "x_self_cond must be a tensor"),
    (lambda: PLAIN.q_sample(ROWS, T, X), "x_start must be a tensor"),
    (lambda: PLAIN.q_posterior(X, ARRAY, T), "x_t must be a tensor"),
    (lambda: PLAIN.predict_v(X, T, ROWS), "noise must be a tensor"),
    (lambda: PLAIN.interpolate(ARRAY, X), "x1 must be a tensor"),
    (lambda: PLAIN.interpolate(X, PICTURE), "x2 must be a tensor"),
    (lambda: next(ancestral(PLAIN, ARRAY)), "x must be a tensor"),
    (lambda: next(ddim(PLAIN, ROWS, 3)), "x must be a tensor"),
    (lambda: next(encode(PLAIN, ROWS, 3)), "x must be a tensor"),
    (lambda: vlb_terms(PLAIN, ARRAY), "x0 must be a tensor"),
    (lambda: EmpiricalOracle(SCHEDULE, ARRAY), "images must be a tensor"),
    (lambda: ORACLE.predict(ARRAY, T), "x_t must be a tensor"),
    (lambda: discretized_log_likelihood(ARRAY, X, X), "x must be a tensor"),
    (lambda: CLASSED.network(ARRAY, T), "x_t must be a tensor"),
    (lambda: CLASSED.network(X, [1, 2]), r"t must be a tensor, but got \[1, 2\]"),
    (lambda: to_model_scale(ARRAY), "images must be a tensor"),
    (lambda: to_image_scale(PICTURE), "x must be a tensor"),
    (lambda: PLAIN.predict(X, 3), r"one timestep per image, torch.full\(\(2,\), 1 … T\), but got 3"),
    (lambda: PLAIN.predict(X, np.int64(3)), r"torch.full\(\(2,\), 1 … T\), but got (np.int64\()?3"),
    (lambda: PLAIN.predict(X, "12"), "t must be a tensor with one timestep per image"),
    (lambda: PLAIN.predict(X, ["1", "2"]), r"one timestep per image, .* but got \['1', '2'\]"),
    (lambda: PLAIN.predict(X, None), "t must be a tensor .* but got None"),
    (lambda: PLAIN.loss(X, 3), "t must be a tensor with one timestep per image"),
    (lambda: ORACLE.predict(X, 1), "t must be a tensor with one timestep per image"),
    (lambda: CLASSED.sample(2, labels=1), r"such as torch.full\(\(2,\), 3\), but got 1"),
    (lambda: CLASSED.sample(2, labels=["cat", "dog"]), r"labels must be None, .* got \['cat', 'dog'\]"),
    (lambda: CLASSED.predict(X, T, {"class": 1}), "labels must be None, or a tensor with one class"),
    (lambda: TOLD.loss(X, self_condition_mask=True), "one truth value per image, .* but got True"),
    (lambda: PLAIN.sample(2, generator=0), r"torch.Generator\(\).manual_seed\(seed\)"),
    (lambda: PLAIN.loss(X, generator=np.random.default_rng(0)), "generator must be a torch.Generator"),
    (lambda: next(ddim(PLAIN, X, 3, generator=[0, 1])), "must be a torch.Generator, but got 0"),
    (lambda: next(heun(PLAIN, X, 3, generator=[0, 1])), "must be a torch.Generator, but got 0"),
    (lambda: next(dpm_solver_pp(PLAIN, X, 3, generator=3)), "must be a torch.Generator, but got 3"),
    (lambda: PLAIN.p_sample(X, T, generator=0), "generator must be a torch.Generator, but got 0"),
    (lambda: PLAIN.interpolate(X, X, generator=7), "generator must be a torch.Generator, but got 7"),
    (lambda: vlb_terms(PLAIN, X + 1, generator=7), "generator must be a torch.Generator, but got 7"),
    (lambda: stratified_timesteps(2, 5, generator=7), "generator must be a torch.Generator"),
    *(
        (call, "a torch.Generator, but got .*; only samplers take one for each image")
        for call in (
            lambda: PLAIN.loss(X, generator=EACH),
            lambda: vlb_terms(PLAIN, X + 1, generator=EACH),
            lambda: flow_log_density(PLAIN, X, 3, probes=1, generator=EACH),
            lambda: flow_bits_per_dim(PLAIN, X + 1, 3, probes=1, generator=EACH),
            lambda: stratified_timesteps(2, 5, generator=EACH),
            lambda: GaussianMixtureOracle(SCHEDULE, **MIXTURE).sample_data(2, EACH),
        )
    ),
    *(
        (
            lambda kind=kind: diffusion_of(loss_weighting=kind),
            r"a weighting such as MinSNR\(\), but got <class",
        )
        for kind in (EDM, MinSNR, P2)
    ),
    (
        lambda: FREE.sample(2, labels=[0, 1], guidance=ClassifierFreeGuidance(FREE, 2.0)),
        "guidance must be a scale, such as 2.0, .* but got a ClassifierFreeGuidance, which is a model already",
    ),
    (lambda: next(ddim(PLAIN, X, "50")), "the timesteps must be whole numbers that fall strictly"),
    (lambda: next(ddim(PLAIN, X, np.array([50.0, 0.5, 0]))), "must be whole numbers that fall"),
    (lambda: NoiseSchedule(["a"]), r"betas must be numbers, as a tensor, an array or a list"),
    (lambda: NoiseSchedule(None), "betas must be numbers"),
    (lambda: GaussianMixtureOracle(SCHEDULE, "ab", [1]), "means must be numbers, .* but got 'ab'"),
    (lambda: GaussianMixtureOracle(SCHEDULE, **MIXTURE, weights={}), "weights must be numbers"),
    (lambda: variance_rule(PLAIN, ["small"]), r"variance, .* must be numbers, .* got \['small'\]"),
    (lambda: GaussianDiffusion(Unet, image_size=8), r"must be a torch.nn.Module, such as Unet\(64\)"),
    (lambda: GaussianDiffusion("unet", image_size=8), "network must be a torch.nn.Module"),
    (lambda: next(ancestral(CLASSED.network, X)), r"got a Unet; .* GaussianDiffusion\(network"),
    (lambda: next(ddim(CLASSED.network, X, 3)), r"got a Unet; .* GaussianDiffusion\(network"),
    (lambda: vlb_terms(CLASSED.network, X), r"got a Unet; .* GaussianDiffusion\(network"),
    (lambda: save_pretrained(CLASSED.network, "there"), r"takes a GaussianDiffusion, but got a Unet"),
    (lambda: trainer("there", CLASSED.network), "Trainer takes a GaussianDiffusion, but got a Unet"),
    (lambda: load_pretrained(None), "by its name or its folder, but got a NoneType; .*'digits'"),
    (lambda: load_pretrained(CLASSED), "by its name or its folder, but got a GaussianDiffusion"),
    (lambda: to_diffusers(CLASSED), "only a Unet has a counterpart in diffusers"),
    (lambda: load_diffusers_unet(5), "a folder, a name on the .* Hub or a mapping of tensors, but got 5"),
]
VALUE_ERRORS = [
    (lambda: PLAIN(X.byte()), r"got torch.uint8 .*; 8-bit pixels are images.float\(\) / 255"),
    (lambda: PLAIN(X[0]), r"; a single image is a batch of one, images\[None\]"),
    (lambda: PLAIN(X.permute(0, 2, 3, 1)), r"channels come first, images.permute\(0, 3, 1, 2\)"),
    (lambda: PLAIN(X.cfloat()), "floating-point tensor .* but got torch.complex64"),
    (lambda: PLAIN(X * 255 + 255), r"images must lie in \[0, 1\], but ranges from 255"),
    (lambda: PLAIN.loss(X.long()), "x0 must be a floating-point tensor .* torch.int64"),
    (lambda: CLASSED.network(X.byte(), T), "x_t must be a floating-point tensor, but got torch.uint8"),
    (lambda: CLASSED.network(X, T, [1, 2]), r"labels of shape \(2,\), whole .* got \[1, 2\]"),
    (lambda: to_model_scale(X.byte()), r"torch.uint8; 8-bit pixels are images.float\(\)"),
    (lambda: PLAIN.predict(X, [1, 2.5]), "one whole number per image, .* got torch.float32"),
    (lambda: PLAIN.predict(X, [0, 51]), "t must lie in 1 … 50 .* from 0 to 51"),
    (lambda: PLAIN.predict(X, np.array([1.0, 2.0])), "one whole number per image"),
    (lambda: CLASSED.sample(2, labels=[1]), r"one whole number per image, shape \(2,\)"),
    (lambda: CLASSED.sample(2, labels=torch.eye(3)[:2]), "labels must hold one whole number per image"),
    (lambda: CLASSED.loss(X, T, labels=T > 1), "one whole number per image, .* torch.bool"),
    (lambda: CLASSED.loss(X, labels=[0, 3]), "whole numbers in 0 … 2, but got values from 0 to 3"),
    (lambda: CLASSED.sample(2), "this network needs labels .* but got None"),
    (
        lambda: CLASSED.sample(2, labels=[0, 1], guidance=2),
        "guidance 2 needs a model that was also trained without",
    ),
    (lambda: PLAIN.sample(2, labels=[0, 1], guidance=2.5), "guidance 2.5 needs a model .* label_dropout=0.1"),
    (lambda: FREE.sample(2, guidance=2), "guidance 2 leads towards a class: give labels, one per image"),
    (
        lambda: FREE.sample(2, labels=[0], guidance=2),
        r"labels must hold one whole number per image, shape \(2,\)",
    ),
    (
        lambda: FREE.sample(2, labels=[0, 4], guidance=2),
        "in 0 … 2, or 3 for none, but got values from 0 to 4",
    ),
    (lambda: FREE.sample(2, labels=[0, 1], guidance="2"), "guidance must be a number, but got '2'"),
    (lambda: FREE.sample(2, labels=[0, 1], guidance=np.nan), "guidance must be a number, but got nan"),
    (
        lambda: FREE.loss(X, label_mask=[True, False]),
        "label_mask is for labels, of a network with label_dropout",
    ),
    (lambda: CLASSED.loss(X, labels=[0, 1], label_mask=[True, False]), "of a network with label_dropout"),
    (
        lambda: FREE.loss(X, labels=[0, 1], label_mask=[1, 0]),
        "label_mask must hold one truth value per image",
    ),
    (
        lambda: diffusion_of(CLASSED.network, class_names=["a", "b"]),
        "one for each class, .* 2; .* has 3 classes",
    ),
    (lambda: diffusion_of(class_names=["a"]), r"but got 1; the network has no classes \(num_classes\)"),
    (lambda: diffusion_of(CLASSED.network, class_names="abc"), "a list of different words, but got 'abc'"),
    (
        lambda: diffusion_of(CLASSED.network, class_names=["a", "b", "a"]),
        "class_names must be a list of different",
    ),
    (
        lambda: diffusion_of(CLASSED.network, class_names=[1, 2, 3]),
        "class_names must be a list of different words",
    ),
    (
        lambda: Unet(8, num_classes=3, label_dropout="0.1"),
        r"label_dropout must lie in \[0, 1\), but got '0.1'",
    ),
    (lambda: TOLD.loss(X, self_condition_mask=[1, 0]), "one truth value per image, .* torch.int64"),
    (lambda: PLAIN.sample(2, seeds=7), r"one per image, such as range\(2\), but got 7"),
    (lambda: PLAIN.sample(2, seeds="12"), "seeds must be a list of whole numbers"),
    (lambda: PLAIN.sample(2, seeds=[1.5, 2]), "each of seeds must be a whole number in .* got 1.5"),
    (lambda: PLAIN.sample(2, seeds=[2**64, 2]), "each of seeds must be a whole number in"),
    (lambda: PLAIN.sample(2, seeds={1, 2}), r"seeds must be a list .* but got \{1, 2\}"),
    (lambda: PLAIN.sample("4"), "batch_size must be a whole number of at least 1, but got '4'"),
    (lambda: PLAIN.sample(2.0), "batch_size must be a whole number of at least 1, but got 2.0"),
    (lambda: PLAIN.sample(np.float64(2)), "batch_size must be a whole number of at least 1"),
    (lambda: PLAIN.sample(np.array([2])), "batch_size must .* of int64 and shape"),
    (lambda: PLAIN.sample(np.True_), "batch_size must be a whole number of at least 1"),
    (lambda: PLAIN.sample(2, "10"), "sampling_timesteps must be a whole number in 1 … 50, but got '10'"),
    (lambda: next(ddim(PLAIN, X, None)), "sampling_timesteps must be a whole number in 1 … 50"),
    (lambda: PLAIN.sample(2, 3, eta="1"), r"eta must lie in \[0, 1\]: .* but got '1'"),
    (lambda: PLAIN.sample(2, 3, eta=np.array([0, 1])), r"eta must lie in \[0, 1\]"),
    (lambda: PLAIN.interpolate(X, X, lam=None), r"lam must lie in \[0, 1\]: .* but got None"),
    (lambda: PLAIN.interpolate(X, X, lam=[0.5]), r"lam must lie in \[0, 1\]: .* but got \[0.5\]"),
    (lambda: PLAIN.interpolate(X, X, 2.0), "t must be a whole number in 1 … 50, but got 2.0"),
    (lambda: diffusion_of(image_size=4.0), "image_size must be one whole number >= 1 or a pair"),
    (lambda: diffusion_of(image_size=np.array([4, 4, 1])), "image_size must be one whole number"),
    (lambda: diffusion_of(timesteps="1000"), "timesteps must be a whole number .* got '1000'"),
    (lambda: MinSNR("5"), "MinSNR needs gamma > 0, but got '5'"),
    (lambda: P2(None), "P2 needs gamma >= 0 and k >= 0, but got gamma=None"),
    (lambda: stratified_timesteps(2, 5, shift="0"), r"shift must lie in \[0, 1\), but got '0'"),
    (lambda: GaussianMixtureOracle(SCHEDULE, **MIXTURE, shape=1), r"shape must be \(C, H, W\)"),
    (lambda: diffusion_of(objective=None), "unknown objective None; choose one of 'pred_noise'"),
    (lambda: diffusion_of(loss_type=2), "unknown loss_type 2; choose one of 'l1', 'l2'"),
    (lambda: diffusion_of(beta_schedule=["linear"]), r"unknown beta_schedule \['linear'\]"),
    (lambda: load_pretrained("digits", weights="average"), "unknown weights 'average'; .*'ema', 'model'"),
    (lambda: Unet(8.0), "dim must be a whole number of at least 1, but got 8.0"),
    (lambda: Unet("8"), "dim must be a whole number of at least 1, but got '8'"),
    (lambda: Unet(8, dim_mults=2), "dim_mults must be a list of whole numbers .* but got 2"),
    (lambda: Unet(8, dim_mults=(1, 1.5)), r"dim_mults must be a list .* but got \(1, 1.5\)"),
    (lambda: Unet(8, attention_resolutions=2), "attention_resolutions must be a list of whole numbers"),
    (lambda: Unet(8, dropout="0.1"), r"dropout must lie in \[0, 1\), but got '0.1'"),
    (lambda: Unet(8, learned_variance="yes"), "learned_variance must be True or False, but got 'yes'"),
    (lambda: Unet(8, self_condition=1), "self_condition must be True or False, but got 1"),
    (lambda: TrainingConfig(train_lr="1e-4"), "train_lr must be a number above 0, but got '1e-4'"),
    (lambda: TrainingConfig(compile="no"), "compile must be True or False, but got 'no'"),
    (lambda: TrainingConfig(adam_betas=0.9), "adam_betas must be a pair .* but got 0.9"),
    (lambda: TrainingConfig(num_workers=True), "num_workers must be a whole number .* but got True"),
    (lambda: TrainingConfig(results_folder=None), "results_folder must be a path, but got None"),
    (lambda: TrainingConfig(results_folder=""), "results_folder must be a path, but got ''"),
    (lambda: TrainingConfig(mixed_precision=torch.bfloat16), "unknown mixed_precision torch.bfloat16"),
    (
        lambda: save_pretrained(CLASSED, "there", checked_precisions=["float16"]),
        "unknown checked precision 'float16'; choose one of 'bf16', 'fp16'",
    ),
    (lambda: save_pretrained(CLASSED, "there", dtype="float16"), "such as torch.float16, but got 'float16'"),
]
BAD = [(TypeError, *row) for row in TYPE_ERRORS] + [(ValueError, *row) for row in VALUE_ERRORS]


@pytest.mark.parametrize(("error", "call", "message"), BAD, ids=[message[:40] for *_, message in BAD])
def test_what_cannot_be_meant_is_refused_in_words(error, call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        call()
    assert [network.calls for network in NETWORKS] == [[], []]
    assert list(tmp_path.iterdir()) == []
