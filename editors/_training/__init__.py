"""What editors with gradients share: what they read, gradients at a module's output, training of whole weights."""
