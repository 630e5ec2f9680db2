"""The seam on torch: the step runs eagerly, autograd gives the gradients."""
