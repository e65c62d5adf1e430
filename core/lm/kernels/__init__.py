"""The same computations as transformers and torch make, faster: fused, recorded, by another library."""
