from .diffusion import GaussianDiffusion as GaussianDiffusion
from .diffusion import to_image_scale as to_image_scale
from .diffusion import to_model_scale as to_model_scale
from .io.checkpoint import DamagedCheckpointError as DamagedCheckpointError
from .io.diffusers import load_diffusers_unet as load_diffusers_unet
from .io.diffusers import save_diffusers_unet as save_diffusers_unet
from .io.diffusers import to_diffusers as to_diffusers
from .io.pretrained import load_pretrained as load_pretrained
from .io.pretrained import save_pretrained as save_pretrained
from .mixture_oracle import GaussianMixtureOracle as GaussianMixtureOracle
from .oracle import EmpiricalOracle as EmpiricalOracle
from .prediction import Prediction as Prediction
from .samplers import State as State
from .samplers import ancestral as ancestral
from .samplers import ddim as ddim
from .samplers import timestep_grid as timestep_grid
from .schedule import NoiseSchedule as NoiseSchedule
from .schedule import cosine_betas as cosine_betas
from .schedule import linear_betas as linear_betas
from .schedule import sigmoid_betas as sigmoid_betas
from .training.trainer import Trainer as Trainer
from .unet import Unet as Unet
from .weighting import P2 as P2
from .weighting import MinSNR as MinSNR
from .weighting import stratified_timesteps as stratified_timesteps

__version__: str
