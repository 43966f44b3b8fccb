"""What local learning costs in accuracy: every tie against end-to-end training."""
