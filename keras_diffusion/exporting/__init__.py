"""A trained model as files that draw on machines without TensorFlow: SavedModel, ONNX, and the proof that they agree."""
