"""The algebra of axes: which indices of which tensors can only be removed together."""
