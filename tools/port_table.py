"""The map from the MindSpore port denoising-diffusion-mindspore 0.0.1a0 to this package: the one place that holds it.

The page chapters/from-mindspore.md shows it (_ext/port_map.py), and tests/test_port_map.py walks it: every name and
parameter of the port has a row, and every name on our side exists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = re.compile(r"([\w.]+)(?:\(([^)]*)\))?")


@dataclass(frozen=True)
class Name:
    """One name as a row writes it.

    Attributes:
        path: such as "ddm.Trainer.save".
        parameters: those named in parentheses behind it.
    """

    path: str
    parameters: tuple[str, ...]

    def shown(self, base: str) -> list[str]:
        """How the page writes it in a section about `base`: parameters of `base` alone, all else without `base`."""
        if self.path == base and self.parameters:
            return list(self.parameters)
        call = f"({', '.join(self.parameters)})" if self.parameters else ""
        return [self.path.removeprefix(f"{base}." if base else "") + call]


@dataclass(frozen=True)
class Row:
    """What became of one thing, or of several that belong together.

    Attributes:
        theirs: names of the port, with the parameters that the row is about: "ddm.Trainer(amp_level)".
        ours: the names here, written likewise, or None if there is nothing of the kind.
        change: what is different and why; without `ours`, what to use instead. Markdown.
    """

    theirs: str
    ours: str | None
    change: str


@dataclass(frozen=True)
class Section:
    """Rows about one thing.

    Attributes:
        key: what the page calls it, as in `{port-map} trainer`.
        theirs: the class or module of the port that the rows are about, left out of their names on the page.
        ours: the same on our side; empty where names are written in full.
        rows: the rows.
    """

    key: str
    theirs: str
    ours: str
    rows: tuple[Row, ...]


def names(text: str | None) -> Iterator[Name]:
    """The names that one side of a row writes down."""
    for path, parameters in NAME.findall(text or ""):
        yield Name(path, tuple(part.strip() for part in parameters.split(",") if part.strip()))


SAME = "The same."

DIFFUSION_PARAMETERS = Section(
    "diffusion-parameters",
    "ddm.GaussianDiffusion",
    "ddpm.GaussianDiffusion",
    (
        Row(
            "ddm.GaussianDiffusion(model)",
            "ddpm.GaussianDiffusion(network)",
            "Still the first argument. Any module that meets the contract of the package will do, not only `Unet`.",
        ),
        Row(
            "ddm.GaussianDiffusion(image_size)",
            "ddpm.GaussianDiffusion(image_size)",
            "One number for square images, as before, or `(height, width)`.",
        ),
        Row(
            "ddm.GaussianDiffusion(timesteps)",
            "ddpm.GaussianDiffusion(timesteps)",
            "The same number of levels. They are counted 1 … T, as in the papers, and not 0 … T − 1.",
        ),
        Row(
            "ddm.GaussianDiffusion(sampling_timesteps)",
            "ddpm.GaussianDiffusion(sampling_timesteps)",
            "Fewer than T still means DDIM. `sample` also takes it, for one call.",
        ),
        Row(
            "ddm.GaussianDiffusion(loss_type)",
            "ddpm.GaussianDiffusion(loss_type)",
            'The same two. The default is `"l2"`, the loss of the paper, and was `"l1"`.',
        ),
        Row("ddm.GaussianDiffusion(objective)", "ddpm.GaussianDiffusion(objective)", "The same three."),
        Row(
            "ddm.GaussianDiffusion(beta_schedule)",
            "ddpm.GaussianDiffusion(beta_schedule)",
            'The default was `"cosine"`. It is `None`: `"linear"`, the paper\'s, or `"cosine"` if T is 20 or less,'
            ' where the rescaled linear variances would reach 1. `"sigmoid"` is new.',
        ),
        Row(
            "ddm.GaussianDiffusion(p2_loss_weight_gamma, p2_loss_weight_k)",
            "ddpm.GaussianDiffusion(loss_weighting), ddpm.P2(gamma, k)",
            "`loss_weighting=P2(gamma, k)`; `None`, the default, is their gamma of 0. The weight now belongs to the"
            " level of each image. In the port every weight met every image's error, which left one factor for the"
            " whole batch. `MinSNR` is new.",
        ),
        Row(
            "ddm.GaussianDiffusion(ddim_sampling_eta)",
            "ddpm.GaussianDiffusion(ddim_sampling_eta)",
            "The default is 0, deterministic, as in the DDIM paper. It was 1, which adds as much noise as ancestral"
            " sampling.",
        ),
    ),
)

DIFFUSION_METHODS = Section(
    "diffusion-methods",
    "ddm.GaussianDiffusion",
    "ddpm.GaussianDiffusion",
    (
        Row(
            "ddm.GaussianDiffusion, ddm.GaussianDiffusion.construct(img, t, noise, random_cond)",
            "ddpm.GaussianDiffusion, ddpm.GaussianDiffusion.forward(images)",
            "`diffusion(images)`, the training loss of images in [0, 1]. It draws t, noise and the coin of"
            " self-conditioning itself. Images outside [0, 1] or of another size are refused.",
        ),
        Row(
            "ddm.GaussianDiffusion.p_losses(x_start, t, noise, random_cond)",
            "ddpm.GaussianDiffusion.loss(x0, t, noise, self_condition_mask)",
            "For images in [-1, 1]. What is not given is drawn. The coin was one for the batch and is one for each"
            " image.",
        ),
        Row(
            "ddm.GaussianDiffusion.q_sample(x_start, t, noise)",
            "ddpm.GaussianDiffusion.q_sample(x_start, t, noise)",
            "The same; t counts from 1.",
        ),
        Row(
            "ddm.GaussianDiffusion.q_posterior(x_start, x_t, t)",
            "ddpm.GaussianDiffusion.q_posterior(x_start, x_t, t)",
            "The same three results; t counts from 1.",
        ),
        Row(
            "ddm.GaussianDiffusion.predict_start_from_noise(x_t, t, noise)",
            "ddpm.GaussianDiffusion.predict_start_from_noise(x_t, t, noise)",
            "The same formula; t counts from 1.",
        ),
        Row(
            "ddm.GaussianDiffusion.predict_noise_from_start(x_t, t, x0)",
            "ddpm.GaussianDiffusion.predict_noise_from_start(x_t, t, x_start)",
            "Likewise; `x0` is called `x_start` here too.",
        ),
        Row(
            "ddm.GaussianDiffusion.predict_v(x_start, t, noise)",
            "ddpm.GaussianDiffusion.predict_v(x_start, t, noise)",
            "Likewise.",
        ),
        Row(
            "ddm.GaussianDiffusion.predict_start_from_v(x_t, t, v)",
            "ddpm.GaussianDiffusion.predict_start_from_v(x_t, t, v)",
            "Likewise.",
        ),
        Row(
            "ddm.GaussianDiffusion.model_predictions(x, t, x_self_cond, clip_x_start)",
            "ddpm.GaussianDiffusion.predict(x_t, t, x_self_cond, clip_x0)",
            "Returns a `Prediction` with `noise`, `x0`, `v` and `score`, where the port had the pair of noise and"
            " clean image. After clipping, the noise is derived again for every objective; the port left it as it"
            " was for `pred_noise`.",
        ),
        Row(
            "ddm.GaussianDiffusion.p_mean_variance(x, t, x_self_cond, clip_denoised)",
            "ddpm.GaussianDiffusion.p_mean_variance(x_t, t, x_self_cond, clip_denoised)",
            "Mean, variance and clipped log variance; the predicted clean image, which was the fourth, comes from"
            " `predict`. `clip_denoised` clips. The port threw the clipped image away.",
        ),
        Row(
            "ddm.GaussianDiffusion.p_sample(x, t, x_self_cond, clip_denoised)",
            "ddpm.GaussianDiffusion.p_sample(x_t, t, x_self_cond, clip_denoised)",
            "Returns the image one step earlier alone, without the predicted clean one. t has one level for each image;"
            " it was one number.",
        ),
        Row(
            "ddm.GaussianDiffusion.sample(batch_size)",
            "ddpm.GaussianDiffusion.sample(batch_size)",
            "A torch tensor in [0, 1], never outside; it was a NumPy array. Takes `labels`, and a generator or"
            " `seeds`, so that a draw can be repeated.",
        ),
        Row(
            "ddm.GaussianDiffusion.p_sample_loop(shape)",
            "ddpm.ancestral(x)",
            "A generator that yields every step, from noise that you hand it, in [-1, 1]. For images alone call"
            " `sample`.",
        ),
        Row(
            "ddm.GaussianDiffusion.ddim_sample(shape, clip_denoised)",
            "ddpm.ddim(x, clip_x0)",
            "Likewise a generator, for a number of steps or for levels of your own.",
        ),
        Row(
            "ddm.GaussianDiffusion.interpolate(x1, x2, t, lam)",
            "ddpm.GaussianDiffusion.interpolate(x1, x2, t, lam)",
            "Images in [-1, 1]; t is a level 1 … T, and None means T. In the port the call fails.",
        ),
    ),
)

DIFFUSION_ATTRIBUTES = Section(
    "diffusion-attributes",
    "ddm.GaussianDiffusion",
    "ddpm.GaussianDiffusion",
    (
        Row("ddm.GaussianDiffusion.model", "ddpm.GaussianDiffusion.network", SAME),
        Row(
            "ddm.GaussianDiffusion.image_size",
            "ddpm.GaussianDiffusion.image_size",
            "Always `(height, width)`.",
        ),
        Row(
            "ddm.GaussianDiffusion.channels, ddm.GaussianDiffusion.self_condition, ddm.GaussianDiffusion.objective,"
            " ddm.GaussianDiffusion.loss_type, ddm.GaussianDiffusion.sampling_timesteps,"
            " ddm.GaussianDiffusion.ddim_sampling_eta",
            "ddpm.GaussianDiffusion.channels, ddpm.GaussianDiffusion.self_condition,"
            " ddpm.GaussianDiffusion.objective, ddpm.GaussianDiffusion.loss_type,"
            " ddpm.GaussianDiffusion.sampling_timesteps, ddpm.GaussianDiffusion.ddim_sampling_eta",
            SAME,
        ),
        Row("ddm.GaussianDiffusion.num_timesteps", "ddpm.GaussianDiffusion.schedule.timesteps", SAME),
        Row(
            "ddm.GaussianDiffusion.is_ddim_sampling",
            None,
            "Compare: `diffusion.sampling_timesteps < diffusion.schedule.timesteps`.",
        ),
        Row(
            "ddm.GaussianDiffusion.betas",
            "ddpm.GaussianDiffusion.schedule.beta",
            "Every table has T + 1 entries, and entry 0 belongs to the clean image: their `betas[i]` is `beta[i + 1]`."
            " Computed in float64, then stored in float32; the port computed in float32.",
        ),
        Row(
            "ddm.GaussianDiffusion.alphas_cumprod",
            "ddpm.GaussianDiffusion.schedule.alpha_bar",
            "Their `alphas_cumprod[i]` is `alpha_bar[i + 1]`.",
        ),
        Row(
            "ddm.GaussianDiffusion.alphas_cumprod_prev",
            "ddpm.GaussianDiffusion.schedule.alpha_bar",
            "Its first T entries, `alpha_bar[:-1]`.",
        ),
        Row(
            "ddm.GaussianDiffusion.sqrt_alphas_cumprod",
            "ddpm.GaussianDiffusion.schedule.sqrt_alpha_bar",
            "From entry 1 on.",
        ),
        Row(
            "ddm.GaussianDiffusion.sqrt_one_minus_alphas_cumprod",
            "ddpm.GaussianDiffusion.schedule.sigma",
            "From entry 1 on.",
        ),
        Row(
            "ddm.GaussianDiffusion.log_one_minus_alphas_cumprod",
            "ddpm.GaussianDiffusion.schedule.sigma",
            "`2 * sigma[1:].log()`.",
        ),
        Row(
            "ddm.GaussianDiffusion.sqrt_recip_alphas_cumprod",
            "ddpm.GaussianDiffusion.schedule.sqrt_alpha_bar",
            "`1 / sqrt_alpha_bar[1:]`.",
        ),
        Row(
            "ddm.GaussianDiffusion.sqrt_recipm1_alphas_cumprod",
            "ddpm.GaussianDiffusion.schedule.sigma, ddpm.GaussianDiffusion.schedule.sqrt_alpha_bar",
            "`sigma[1:] / sqrt_alpha_bar[1:]`.",
        ),
        Row(
            "ddm.GaussianDiffusion.posterior_variance",
            "ddpm.GaussianDiffusion.schedule.posterior_variance",
            "From entry 1 on.",
        ),
        Row(
            "ddm.GaussianDiffusion.posterior_mean_coef1",
            "ddpm.GaussianDiffusion.schedule.posterior_mean_coef_x0",
            "From entry 1 on. The factor of the clean image.",
        ),
        Row(
            "ddm.GaussianDiffusion.posterior_mean_coef2",
            "ddpm.GaussianDiffusion.schedule.posterior_mean_coef_xt",
            "From entry 1 on. The factor of the noisy image.",
        ),
        Row(
            "ddm.GaussianDiffusion.posterior_log_variance_clipped",
            "ddpm.GaussianDiffusion.schedule.posterior_log_variance_clipped",
            "At the first step, whose variance is 0, it is the value of the second, as in the paper's code. The"
            " port took the logarithm of `1e-20`.",
        ),
        Row(
            "ddm.GaussianDiffusion.p2_loss_weight",
            "ddpm.GaussianDiffusion.loss_weighting",
            "A function: `loss_weighting(diffusion.schedule, t, diffusion.objective)` is the weight at t.",
        ),
        Row(
            "ddm.GaussianDiffusion.loss_fn",
            "ddpm.GaussianDiffusion.elementwise_loss",
            "The error of each element, before any mean.",
        ),
    ),
)

FUNCTIONS = "ddm.models.gussion_diffusion"
DIFFUSION_FUNCTIONS = Section(
    "diffusion-functions",
    FUNCTIONS,
    "",
    (
        Row(f"{FUNCTIONS}.normalize_to_neg_one_to_one(img)", "ddpm.to_model_scale(images)", SAME),
        Row(
            f"{FUNCTIONS}.unnormalize_to_zero_to_one(t)",
            "ddpm.to_image_scale(x)",
            "Also clips to [0, 1].",
        ),
        Row(
            f"{FUNCTIONS}.extract(a, t, x_shape)",
            "ddpm.GaussianDiffusion.at(table, t)",
            'By name: `diffusion.at("alpha_bar", t)`, of shape (B, 1, 1, 1).',
        ),
        Row(
            f"{FUNCTIONS}.linear_beta_schedule(timesteps)",
            "ddpm.linear_betas(timesteps)",
            "The same values, in float64. Takes the end points as well. `NoiseSchedule` refuses a β of 1 or more, which"
            " the port let through for a T of 20 or less.",
        ),
        Row(
            f"{FUNCTIONS}.cosine_beta_schedule(timesteps, s)",
            "ddpm.cosine_betas(timesteps, offset)",
            "The same values, in float64.",
        ),
    ),
)

UNET_PARAMETERS = Section(
    "unet-parameters",
    "ddm.Unet",
    "ddpm.Unet",
    (
        Row(
            "ddm.Unet(dim, dim_mults, channels)",
            "ddpm.Unet(dim, dim_mults, channels)",
            "The same words for another network: that of the DDPM paper, without weight standardisation and without"
            " linear attention. Weights of the port do not fit.",
        ),
        Row("ddm.Unet(init_dim)", "ddpm.Unet(init_dim)", "Any width works; in the port only `dim` did."),
        Row(
            "ddm.Unet(out_dim)",
            "ddpm.Unet(out_dim)",
            "The same. `GaussianDiffusion` needs as many channels out as in, as it did there.",
        ),
        Row(
            "ddm.Unet(self_condition)",
            "ddpm.Unet(self_condition)",
            "The same. The first estimate is clipped to [-1, 1] before it is fed back.",
        ),
        Row(
            "ddm.Unet(resnet_block_groups)",
            "ddpm.Unet(resnet_block_groups)",
            "The same; must divide every width.",
        ),
        Row(
            "ddm.Unet(learned_variance)",
            "ddpm.Unet(learned_variance)",
            "It works: the variance is trained along, and sampling and the bound use it. In the port it only doubled"
            " `out_dim`, which its `GaussianDiffusion` then refused.",
        ),
        Row(
            "ddm.Unet(learned_sinusoidal_cond, random_fourier_features, learned_sinusoidal_dim)",
            "ddpm.Unet(learned_sinusoidal_cond, random_fourier_features, learned_sinusoidal_dim)",
            "They work; the port's `GaussianDiffusion` refused a network with either. The waves see t/1000, where"
            " the port fed them t, and the first two exclude each other.",
        ),
    ),
)

UNET = Section(
    "unet",
    "ddm.Unet",
    "ddpm.Unet",
    (
        Row(
            "ddm.Unet, ddm.Unet.construct(x, time, x_self_cond)",
            "ddpm.Unet, ddpm.Unet.forward(x_t, t, x_self_cond)",
            "`network(x_t, t, labels=None, x_self_cond=None)`. Levels count from 1.",
        ),
        Row(
            "ddm.Unet.channels, ddm.Unet.self_condition",
            "ddpm.Unet.channels, ddpm.Unet.self_condition",
            SAME,
        ),
        Row(
            "ddm.Unet.out_dim, ddm.Unet.random_or_learned_sinusoidal_cond",
            "ddpm.Unet.config",
            "`config` holds every argument that the network was built with.",
        ),
        Row(
            "ddm.Unet.init_conv, ddm.Unet.time_mlp, ddm.Unet.downs, ddm.Unet.mid_block1, ddm.Unet.mid_attn,"
            " ddm.Unet.mid_block2, ddm.Unet.ups, ddm.Unet.final_res_block, ddm.Unet.final_conv",
            "ddpm.Unet.first, ddpm.Unet.time_embedding, ddpm.Unet.down, ddpm.Unet.middle, ddpm.Unet.up,"
            " ddpm.Unet.last_norm, ddpm.Unet.last",
            "The parts in the order in which they run. They are built otherwise and do not correspond one to one.",
        ),
    ),
)

TRAINER_PARAMETERS = Section(
    "trainer-parameters",
    "ddm.Trainer",
    "ddpm.Trainer",
    (
        Row("ddm.Trainer(diffusion_model)", "ddpm.Trainer(diffusion)", "Still the first argument."),
        Row(
            "ddm.Trainer(folder_or_dataset)",
            "ddpm.Trainer(folder_or_dataset)",
            "A folder, with its images at any depth (the port wanted one subfolder for each class), or a torch"
            " `Dataset` of images in [0, 1]. The `Dataset` holds single images and the trainer makes the batches;"
            " one of MindSpore had to come in batches.",
        ),
        Row(
            "ddm.Trainer(train_batch_size, gradient_accumulate_every, train_lr, train_num_steps, adam_betas)",
            "ddpm.Trainer(train_batch_size, gradient_accumulate_every, train_lr, train_num_steps, adam_betas)",
            "The same, with the same defaults. The batch is that of one process, as it was.",
        ),
        Row(
            "ddm.Trainer(augment_horizontal_flip)",
            "ddpm.Trainer(augment_horizontal_flip)",
            "The same: for a folder. A `Dataset` is taken as it is, in both.",
        ),
        Row(
            "ddm.Trainer(ema_update_every, ema_decay)",
            "ddpm.Trainer(ema_update_every, ema_decay)",
            "The same defaults. What happens early in a run is `ema_rampup` (see EMA below). `ema_halflife`, in"
            " images, can stand in for `ema_decay`.",
        ),
        Row(
            "ddm.Trainer(save_and_sample_every)",
            "ddpm.Trainer(save_and_sample_every)",
            "The same. Of the checkpoints the newest three stay; `checkpoints_to_keep` changes that.",
        ),
        Row(
            "ddm.Trainer(num_samples)",
            "ddpm.Trainer(num_samples)",
            "Any number; the port asked for a square, with a test that some other numbers passed too.",
        ),
        Row(
            "ddm.Trainer(results_folder)",
            "ddpm.Trainer(results_folder)",
            "The same; a `Path` works as well.",
        ),
        Row(
            "ddm.Trainer(amp_level)",
            "ddpm.Trainer(mixed_precision)",
            'The old word is refused, with this advice. `"O0"` is `"no"`, the default here; for `"O1"`, the default'
            ' there, `"O2"` and `"O3"` say `"fp16"` on a GPU, or `"bf16"` on newer ones and on the CPU. Which'
            " layers run in half precision is PyTorch's choice, and convolutions do; under `O1` they did not.",
        ),
        Row(
            "ddm.Trainer(dynamic_loss_scale)",
            None,
            'Refused, with advice. `mixed_precision="fp16"` brings a dynamic scale by itself; `"bf16"` needs none.',
        ),
        Row(
            "ddm.Trainer(jit, akg)",
            "ddpm.Trainer(compile)",
            "The old words are refused, with advice. `compile=True` runs the network through `torch.compile`. The"
            " default is False where theirs was True, since PyTorch trains well without.",
        ),
        Row(
            "ddm.Trainer(distributed)",
            None,
            "Refused, with advice. Start the script with `accelerate launch` or `torchrun`; it needs no word in the"
            " code.",
        ),
    ),
)

TRAINER = Section(
    "trainer",
    "ddm.Trainer",
    "ddpm.Trainer",
    (
        Row(
            "ddm.Trainer, ddm.Trainer.train",
            "ddpm.Trainer, ddpm.Trainer.train",
            "The same call. A folder that holds a run already is refused and not written over; `resume()` takes"
            " that run up.",
        ),
        Row(
            "ddm.Trainer.save(milestone)",
            "ddpm.Trainer.save",
            "Takes nothing and returns the folder it wrote, which is named by the step. It holds the model, the"
            " averaged weights apart from it, and all that the run needs to go on. The port kept only the average,"
            " under the model's names, and the optimiser.",
        ),
        Row(
            "ddm.Trainer.load(milestone)",
            "ddpm.Trainer.load(step), ddpm.Trainer.resume",
            "`load` restores the run, from the newest whole checkpoint if no step is given; `resume` then trains to"
            " the end. In the port `load` read the file and restored nothing. A milestone was the number of an"
            " update, and so is `step`.",
        ),
        Row("ddm.Trainer.model", "ddpm.Trainer.diffusion", "The `GaussianDiffusion` in training."),
        Row(
            "ddm.Trainer.ema",
            "ddpm.Trainer.ema, ddpm.Trainer.ema_model",
            "The `AveragedModel`, and the `GaussianDiffusion` with the averaged weights: `trainer.ema_model.sample()`.",
        ),
        Row(
            "ddm.Trainer.step",
            "ddpm.Trainer.step",
            "Counts updates. Theirs counted batches, of which an update has `gradient_accumulate_every`.",
        ),
        Row(
            "ddm.Trainer.opt, ddm.Trainer.ds",
            "ddpm.Trainer.optimizer, ddpm.Trainer.data",
            "PyTorch's AdamW, which without `weight_decay` is Adam, and the data set.",
        ),
        Row(
            "ddm.Trainer.batch_size, ddm.Trainer.image_size",
            "ddpm.Trainer.train_batch_size, ddpm.Trainer.diffusion.image_size",
            "The first is named like its parameter, the second belongs to the model.",
        ),
        Row(
            "ddm.Trainer.train_num_steps, ddm.Trainer.gradient_accumulate_every, ddm.Trainer.save_and_sample_every,"
            " ddm.Trainer.num_samples, ddm.Trainer.results_folder",
            "ddpm.Trainer.train_num_steps, ddpm.Trainer.gradient_accumulate_every, ddpm.Trainer.save_and_sample_every,"
            " ddpm.Trainer.num_samples, ddpm.Trainer.results_folder",
            "The same. `trainer.config` holds all of them.",
        ),
        Row(
            "ddm.Trainer.amp_level, ddm.Trainer.jit",
            "ddpm.Trainer.mixed_precision, ddpm.Trainer.compile",
            "Named like the new parameters.",
        ),
        Row(
            "ddm.Trainer.is_main_process",
            "ddpm.Trainer.accelerator.is_main_process",
            "One of the things that accelerate knows.",
        ),
        Row(
            "ddm.Trainer.accumulator, ddm.Trainer.dynamic_loss_scale, ddm.Trainer.distributed",
            None,
            "The trainer needs none of them. Ask `trainer.accelerator`: its `scaler` scales the loss in fp16, its"
            " `num_processes` counts the processes.",
        ),
    ),
)

ACCUMULATOR = Section(
    "accumulator",
    "ddm.Accumulator",
    "",
    (
        Row(
            "ddm.Accumulator, ddm.Accumulator(accumulate_step, clip_norm)",
            "ddpm.Trainer(gradient_accumulate_every, max_grad_norm)",
            "Two words of the trainer; the gradient is still scaled down to length 1. In a loop of your own call"
            " `loss.backward()` once for each batch, as PyTorch adds the gradients up by itself, and after the last one"
            " `torch.nn.utils.clip_grad_norm_`, `optimizer.step()` and `optimizer.zero_grad()`.",
        ),
        Row(
            "ddm.Accumulator(optimizer, total_step), ddm.Accumulator.__call__(grads)",
            None,
            "Nothing wraps the optimiser: see the loop above. `total_step` was checked and never used.",
        ),
        Row(
            "ddm.Accumulator.optimizer, ddm.Accumulator.clip_norm, ddm.Accumulator.accumulate_step,"
            " ddm.Accumulator.total_step, ddm.Accumulator.inner_grads, ddm.Accumulator.zeros, ddm.Accumulator.counter,"
            " ddm.Accumulator.map, ddm.Accumulator.partial",
            None,
            "PyTorch keeps the sum of the gradients in `parameter.grad`; nothing else needs to be kept.",
        ),
    ),
)

DATASET = Section(
    "dataset",
    "ddm.create_dataset",
    "ddpm.data.image_folder",
    (
        Row(
            "ddm.create_dataset, ddm.create_dataset(folder, image_size, augment_horizontal_flip)",
            "ddpm.data.image_folder, ddpm.data.image_folder(path, image_size, augment_horizontal_flip)",
            "The same three, and the same cut: resize, then the middle. Images lie at any depth below the folder;"
            " the port wanted one subfolder for each class. Resizing is done with antialiasing. Files that cannot"
            " be read are left out, with a warning that names them.",
        ),
        Row(
            "ddm.create_dataset(exts)",
            None,
            "Leave it out: all of .jpg, .jpeg, .png, .webp, .tiff, .tif and .bmp are read, in capitals or not.",
        ),
        Row(
            "ddm.create_dataset(batch_size, shuffle, num_workers, drop_remainder)",
            "torch.utils.data.DataLoader(batch_size, shuffle, num_workers, drop_last)",
            "The data set holds single images, and a `DataLoader` makes the batches. The port shuffled within 1,024"
            " images, a `DataLoader` shuffles all. The trainer has a loader of its own and takes `train_batch_size`"
            " and `num_workers`.",
        ),
        Row(
            "ddm.create_dataset(num_shards, shard_id)",
            "torch.utils.data.distributed.DistributedSampler(num_replicas, rank)",
            "Only in a loop of your own; the trainer deals the images out to its processes by itself.",
        ),
    ),
)

GRADIENTS = Section(
    "gradients",
    "ddm",
    "",
    (
        Row(
            "ddm.value_and_grad(fn, pos, params, has_aux)",
            "torch.func.grad_and_value(func, argnums, has_aux)",
            "For training write `loss = diffusion(images)` and `loss.backward()`: the gradients are then in the"
            " parameters, which is what `params` asked for. `grad_and_value` is for gradients by an argument, and"
            " returns the gradient first. `pos` was ignored; `argnums` is not.",
        ),
        Row("ddm.grad(fn, pos, params, has_aux)", "torch.func.grad(func, argnums, has_aux)", "Likewise."),
        Row(
            "ddm.api.grad_func, ddm.api.grad_cell",
            None,
            "PyTorch has no such objects; write `loss.backward()`, or use the two functions above.",
        ),
    ),
)

EMA = Section(
    "ema",
    "ddm.ema.EMA",
    "",
    (
        Row(
            "ddm.ema.EMA, ddm.ema.EMA(model)",
            "torch.optim.swa_utils.AveragedModel(model)",
            "The trainer keeps one, on every process; the port kept it on the first alone.",
        ),
        Row(
            "ddm.ema.EMA(beta, update_every)",
            "ddpm.Trainer(ema_decay, ema_update_every)",
            "The trainer passed 0.995 and 10, as it does here. `EMA` by itself began at 0.9999.",
        ),
        Row(
            "ddm.ema.EMA(update_after_step, inv_gamma, power, min_value)",
            "ddpm.Trainer(ema_rampup)",
            "The young average forgets faster in both. The port copied the weights for 100 updates and then let the"
            " decay rise as a power of the step. Here the half-life is at most 5% of the images seen so far.",
        ),
        Row(
            "ddm.ema.EMA(params_no_ema, ignore_names)",
            None,
            "Leave them out: the port did nothing with them.",
        ),
        Row(
            "ddm.ema.EMA.update, ddm.ema.EMA.update_moving_average, ddm.ema.EMA.copy_params_from_model_to_ema",
            "torch.optim.swa_utils.AveragedModel.update_parameters",
            "The first call copies, each later one averages; the trainer calls it every `ema_update_every` updates.",
        ),
        Row(
            "ddm.ema.EMA.get_current_decay",
            "ddpm.Trainer.average_decay(images_seen, images_per_step)",
            "The decay at that point of the run.",
        ),
        Row(
            "ddm.ema.EMA.synchronize, ddm.ema.EMA.desynchronize, ddm.ema.EMA.swap_params",
            None,
            "Nothing is swapped: sample from `trainer.ema_model`, which has its own weights.",
        ),
        Row(
            "ddm.ema.EMA.online_model, ddm.ema.EMA.online_params, ddm.ema.EMA.ema_params",
            "ddpm.Trainer.diffusion, ddpm.Trainer.ema_model",
            "Two models, each with `parameters()`.",
        ),
        Row(
            "ddm.ema.EMA.initted, ddm.ema.EMA.step",
            "ddpm.Trainer.ema.n_averaged",
            "How many times the average was updated; 0 before the first.",
        ),
        Row(
            "ddm.ema.EMA.beta, ddm.ema.EMA.update_every",
            "ddpm.Trainer.ema_decay, ddpm.Trainer.ema_update_every",
            SAME,
        ),
        Row(
            "ddm.ema.EMA.update_after_step, ddm.ema.EMA.inv_gamma, ddm.ema.EMA.power, ddm.ema.EMA.min_value,"
            " ddm.ema.EMA.ignore_names, ddm.ema.EMA.map",
            None,
            "They belong to the port's ramp; use `ema_rampup` above.",
        ),
        Row(
            "ddm.ema.exists(val), ddm.ema.clamp(value, min_value, max_value)",
            None,
            "Write `val is not None`, and `torch.clamp` or Python's `min` and `max`.",
        ),
    ),
)

AMP = Section(
    "amp",
    "ddm.amp",
    "",
    (
        Row(
            "ddm.amp.auto_mixed_precision(network, amp_level)",
            "ddpm.Trainer(mixed_precision), torch.autocast(dtype)",
            "In a loop of your own: `with torch.autocast(...)` around the call of the model, or accelerate's"
            " `Accelerator`. The weights stay in float32.",
        ),
        Row(
            "ddm.amp.auto_white_list(network, white_list), ddm.amp.auto_black_list(network, black_list),"
            " ddm.amp.amp_white_list, ddm.amp.amp_black_list",
            None,
            "`torch.autocast` knows for each operation whether half precision does; there is no list to give.",
        ),
        Row(
            "ddm.amp.DynamicLossScaler(scale_value, scale_factor, scale_window)",
            "torch.amp.GradScaler(init_scale, growth_factor, growth_interval)",
            'For fp16 alone. `Trainer(mixed_precision="fp16")` brings one.',
        ),
        Row(
            "ddm.amp.LossScaler(scale_value), ddm.amp.StaticLossScaler(scale_value), ddm.amp.NoLossScaler",
            "torch.amp.GradScaler(init_scale, enabled)",
            "The scale always adapts. Without one, `enabled=False`.",
        ),
        Row(
            "ddm.amp.LossScaler.scale(inputs), ddm.amp.LossScaler.unscale(inputs),"
            " ddm.amp.LossScaler.adjust(grads_finite), ddm.amp.NoLossScaler.scale(inputs),"
            " ddm.amp.NoLossScaler.unscale(inputs), ddm.amp.NoLossScaler.adjust(grads_finite),"
            " ddm.amp.StaticLossScaler.scale(inputs), ddm.amp.StaticLossScaler.unscale(inputs),"
            " ddm.amp.StaticLossScaler.adjust(grads_finite), ddm.amp.DynamicLossScaler.scale(inputs),"
            " ddm.amp.DynamicLossScaler.unscale(inputs), ddm.amp.DynamicLossScaler.adjust(grads_finite)",
            "torch.amp.GradScaler.scale(outputs), torch.amp.GradScaler.unscale_(optimizer),"
            " torch.amp.GradScaler.update",
            "`scaler.step(optimizer)` leaves an update out if a gradient is not finite, and `update` adapts the scale.",
        ),
        Row(
            "ddm.amp.grad_scale(scale, grad), ddm.amp.grad_unscale(scale, grad)",
            None,
            "`torch.amp.GradScaler` does both.",
        ),
        Row(
            "ddm.amp.is_finite(inputs), ddm.amp.all_finite(inputs)",
            "torch.isfinite",
            "`torch.isfinite(x).all()`. The trainer looks at the loss, and stops with an error where it is not finite.",
        ),
        Row(
            "ddm.amp.ascend_target, ddm.amp.gpu_target, ddm.amp.reciprocal, ddm.amp.gpu_float_status,"
            " ddm.amp.npu_alloc_float_status, ddm.amp.npu_clear_float_status, ddm.amp.npu_get_float_status,"
            " ddm.amp.status, ddm.amp.hypermap, ddm.amp.partial",
            None,
            "Objects of MindSpore. For the device ask `torch.cuda.is_available()`.",
        ),
    ),
)

MODULES = Section(
    "modules",
    "ddm.modules",
    "",
    (
        Row(
            "ddm.modules.ResnetBlock(dim, dim_out, time_emb_dim, groups), ddm.modules.Block(dim, dim_out, groups)",
            "ddpm.unet.ResidualBlock(dim, dim_out, time_dim, groups)",
            "As in the paper's code: normalise, activate, convolve. The time embedding is added; the port scaled"
            " and shifted by it.",
        ),
        Row(
            "ddm.modules.Attention(dim, heads, dim_head)",
            "ddpm.unet.AttentionBlock(dim)",
            "One head as wide as the map. The normalisation and the shortcut are inside.",
        ),
        Row(
            "ddm.modules.LinearAttention(dim, heads, dim_head)",
            None,
            "The paper's network has none. `Unet(attention_resolutions=...)` says where to attend in full.",
        ),
        Row(
            "ddm.modules.downsample(dim, dim_out), ddm.modules.upsample(dim, dim_out)",
            "ddpm.unet.Downsample(dim), ddpm.unet.Upsample(dim)",
            "The width stays; the residual blocks change it.",
        ),
        Row(
            "ddm.modules.SinusoidalPosEmb(dim)",
            "ddpm.unet.SinusoidalEmbedding(dim)",
            "The same values for the same t.",
        ),
        Row(
            "ddm.modules.RandomOrLearnedSinusoidalPosEmb(dim, is_random)",
            "ddpm.unet.FourierEmbedding(dim, learned)",
            "`learned` is the opposite of `is_random`. Of t/1000, not of t.",
        ),
        Row(
            "ddm.modules.WeightStandardizedConv2d(in_channels, out_channels, kernel_size, stride, pad_mode, padding,"
            " dilation, group, has_bias)",
            None,
            "Use `torch.nn.Conv2d`; the paper's network does not standardise weights.",
        ),
        Row(
            "ddm.modules.LayerNorm(dim), ddm.modules.PreNorm(dim, fn), ddm.modules.Residual(fn)",
            None,
            "`AttentionBlock` has its `torch.nn.GroupNorm` and its shortcut inside. Elsewhere write `x + fn(norm(x))`.",
        ),
        Row("ddm.modules.Identity", "torch.nn.Identity", SAME),
        Row("ddm.modules.BMM", "torch.bmm", "Or the operator `@`."),
        Row(
            "ddm.modules.exists(x), ddm.modules.default(val, d)",
            None,
            "Write `x is not None`, and `d if val is None else val`.",
        ),
        Row(
            "ddm.modules.Attention.construct(x), ddm.modules.BMM.construct(x, y),"
            " ddm.modules.Block.construct(x, scale_shift), ddm.modules.Identity.construct(inputs),"
            " ddm.modules.LayerNorm.construct(x), ddm.modules.LinearAttention.construct(x),"
            " ddm.modules.PreNorm.construct(x), ddm.modules.RandomOrLearnedSinusoidalPosEmb.construct(x),"
            " ddm.modules.Residual.construct(x, *args, **kwargs), ddm.modules.ResnetBlock.construct(x, time_emb),"
            " ddm.modules.SinusoidalPosEmb.construct(x), ddm.modules.WeightStandardizedConv2d.construct(x)",
            "torch.nn.Module.forward",
            "What MindSpore calls `construct`, PyTorch calls `forward`.",
        ),
    ),
)

LAYERS = Section(
    "layers",
    "ddm.layers",
    "",
    (
        Row(
            "ddm.layers.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, group, has_bias)",
            "torch.nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)",
            "The port set its weights to begin as those of PyTorch do.",
        ),
        Row(
            "ddm.layers.Conv2d(pad_mode)",
            None,
            'In PyTorch `padding` says it all: a number, `"same"` or `"valid"`.',
        ),
        Row(
            "ddm.layers.Dense(in_channels, out_channels, has_bias)",
            "torch.nn.Linear(in_features, out_features, bias)",
            "Likewise.",
        ),
        Row("ddm.layers.Dense(activation)", None, "Put the activation behind it: `torch.nn.Sequential`."),
        Row(
            "ddm.layers.Upsample(size, scale_factor, mode, align_corners)",
            "torch.nn.Upsample(size, scale_factor, mode, align_corners)",
            "Leave `align_corners` out for `nearest`.",
        ),
        Row("ddm.layers.Upsample.construct(inputs)", "torch.nn.Upsample.forward(input)", SAME),
        Row(
            "ddm.layers.Conv2d.reset_parameters, ddm.layers.Dense.reset_parameters",
            "torch.nn.Conv2d.reset_parameters, torch.nn.Linear.reset_parameters",
            SAME,
        ),
    ),
)

OPS = Section(
    "ops",
    "ddm.ops",
    "",
    (
        Row(
            "ddm.ops.randn(shape, dtype), ddm.ops.randn_like(x, dtype), ddm.ops.randint(low, high, size, dtype),"
            " ddm.ops.random",
            "torch.randn, torch.randn_like, torch.randint, torch.rand",
            "`random()` is `torch.rand(1)`.",
        ),
        Row(
            "ddm.ops.rsqrt(x), ddm.ops.sqrt(x), ddm.ops.reciprocal(x), ddm.ops.softmax(x, axis),"
            " ddm.ops.cumprod(input, dim, dtype), ddm.ops.moveaxis(x, source, destination), ddm.ops.inf",
            "torch.rsqrt, torch.sqrt, torch.reciprocal, torch.softmax, torch.cumprod, torch.moveaxis, torch.inf",
            "`axis` is `dim` in `softmax`.",
        ),
        Row(
            "ddm.ops.norm(x, ord, axis, keepdims), ddm.ops.dot(a, b)",
            "torch.linalg.norm, torch.matmul",
            "`axis` is `dim`, `keepdims` is `keepdim`. `dot` is the operator `@`.",
        ),
        Row(
            "ddm.ops.clip_grad_norm(grads, max_norm, norm_type)",
            "torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)",
            "Works on the parameters, in place, and returns the length before clipping.",
        ),
        Row(
            "ddm.ops.rearrange(head, inputs)",
            "torch.Tensor.unflatten",
            "`x.flatten(2).unflatten(1, (heads, -1))`.",
        ),
        Row(
            "ddm.ops.raise_value_error(info), ddm.ops.raise_runtime_error(info), ddm.ops.raise_type_error(info),"
            " ddm.ops.normalize_axis_index(axis, ndim), ddm.ops.gpu_target",
            None,
            "Python's `raise` does, as do negative axes, and `torch.cuda.is_available()`.",
        ),
    ),
)

UTILS = Section(
    "utils",
    "ddm.utils",
    "",
    (
        Row(
            "ddm.utils.make_grid(tensor, nrow, padding, normalize, value_range, scale_each, pad_value)",
            "torchvision.utils.make_grid(tensor, nrow, padding, normalize, value_range, scale_each, pad_value)",
            "The same, of torch tensors. It was NumPy arrays.",
        ),
        Row(
            "ddm.utils.to_image(tensor, fp, format, **kwargs)",
            "torchvision.utils.save_image(tensor, fp, format, **kwargs)",
            SAME,
        ),
        Row(
            "ddm.trainer.has_int_squareroot(num)",
            None,
            "Not needed, as `num_samples` need not be a square. Right is `math.isqrt(num) ** 2 == num`.",
        ),
        Row(
            "ddm.trainer.num_to_groups(num, divisor)",
            None,
            "Not needed; the trainer draws its samples in batches. `torch.arange(num).split(divisor)` cuts likewise.",
        ),
    ),
)

SECTIONS: tuple[Section, ...] = (
    DIFFUSION_PARAMETERS,
    DIFFUSION_METHODS,
    DIFFUSION_ATTRIBUTES,
    DIFFUSION_FUNCTIONS,
    UNET_PARAMETERS,
    UNET,
    TRAINER_PARAMETERS,
    TRAINER,
    ACCUMULATOR,
    DATASET,
    GRADIENTS,
    EMA,
    AMP,
    MODULES,
    LAYERS,
    OPS,
    UTILS,
)
