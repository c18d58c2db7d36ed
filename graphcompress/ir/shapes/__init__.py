"""Types, shapes and values of tensors, as far as the signature and the constants decide them."""
