"""Placed models against plain ones: same outputs, gradients and tokens, few transfers."""
