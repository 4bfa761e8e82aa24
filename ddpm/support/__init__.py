"""What the method leans on and DDPM is not about: guards of what callers hand in, sources of noise, the two scales."""
