"""`python -m ddpm`, and `accelerate launch -m ddpm` for several GPUs."""

from ddpm.cli import main

if __name__ == "__main__":
    main()
