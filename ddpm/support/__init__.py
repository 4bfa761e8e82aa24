"""What the method leans on and DDPM is not about: guards, keywords, noise, scales, buffers."""
