"""The seam on TensorFlow: Keras traces the step into a graph, tapes give the gradients."""
