"""Which files a run can be made of again; found out without TensorFlow."""

from keras_diffusion import settings
from keras_diffusion.errors import UserError
from keras_diffusion.sampling import onnx_model


def open_file(path):
    """A denoiser.onnx, and the `Settings` of the run that it is of.

    Args:
        path: of a file that export/convert.py wrote.

    Returns:
        (`onnx_model.Denoiser`, `settings.Settings`).

    Raises:
        UserError: where it is another file, or none of a run of fit.py or distill.py.
    """
    exported = onnx_model.load(path, provider="cpu")
    spec = exported.spec
    if spec.kind != "denoiser":
        raise UserError(f"{path}: expected a denoiser.onnx, got a {spec.kind}.onnx")
    told = spec.training.get("settings")
    if not isinstance(told, dict):
        raise UserError(
            f"{path}: expected a file of a run of fit.py or distill.py, got one without its settings"
        )
    try:
        return exported, settings.from_json(told)
    except UserError as error:
        raise UserError(f"{path}: expected the settings of a run of fit.py; {error}") from None
