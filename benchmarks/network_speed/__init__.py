"""How fast is the network? Ours next to diffusers and denoising-diffusion-pytorch, in one run on one machine.

    OMP_NUM_THREADS=2 python -m benchmarks.network_speed

Measured are whole training steps and network calls without gradients, each in a process of its own, eager and
compiled. Those that are compared stay alive together and are timed in turn, a few steps each, round after round, so
that a machine whose speed drifts drifts for all alike; a product of two matrices and a 1×1 convolution of as many
operations take their turn as well and say what the machine can do at that time.

Ours trains by `Trainer.training_step` and diffusers' `UNet2DModel` as their script for unconditional training does it;
the two are the same architecture, parameter for parameter. denoising-diffusion-pytorch has one of its own, and trains
as its `Trainer` does; its width is chosen so that its floating-point operations (FLOPs) are within 5 % of ours, and the
rates are compared per FLOP. Each has its own defaults in all that is not the architecture. Nobody keeps an average of
the weights, and all have one batch of random images in memory.

The measurements go to benchmarks/results/, line by line, so that `--resume` can continue a run that was stopped; the
figures go to benchmarks/network_speed.json (network_speed_cuda.json with `--device cuda`), from which `--redraw` makes
the tables of the README and the picture without measuring anything. A run of some of the networks, modes and so on
leaves the other figures of that file as they are.

The parts: jobs.py (what is measured), contenders.py (the networks and their steps), yardstick.py (the product, the
convolution and the count of operations), child.py (a process that measures), rounds.py (who measures when),
summary.py, tables.py and picture.py (what came out), __main__.py (the command).
"""
