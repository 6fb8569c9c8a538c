"""What the write-up has to show: the parts of the course in order, with what each owes. To add one, add a row.

Formulas are LaTeX (MathML on the page). Time runs as in this package, whatever the edition: t = 0 is the image, t = T the noise.

Source: UC Berkeley CS180/280A, project 5, part B.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Owed:
    """A figure that a part owes.

    Attributes:
        name: as `found.Picture.name`.
        epochs: the epochs that the course names; () where it is drawn once, at the end.
        alt: what it shows, for those who don't see it.
    """

    name: str
    epochs: tuple = ()
    alt: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the course.

    Attributes:
        part: its number.
        title: its heading.
        trained_by: the part whose run shows it; None where any run's figure will do.
        says: what was done, by edition; the editions that have it.
        formulas: LaTeX, by edition.
        owes: figures.
        brought_by: the part whose run draws the figures too, where `trained_by` is None.
    """

    part: str
    title: str
    trained_by: str | None
    says: dict
    formulas: dict
    owes: tuple
    brought_by: str | None = None


ARCHITECTURE = Owed("architecture", alt="Diagram of the UNet's stages with their shapes")
_LOSS = Owed("loss", alt="Curve of the training loss at every step, with its running mean")
_DENOISED = Owed("denoised", (1, 5), "Grid of test images: rows as the caption lists them")
_ONE_STEP = Owed(
    "one_step",
    (5, 20),
    "Grid of training images: a row clean, a row noised to rising t, a row denoised in one step",
)
_SAMPLES = Owed("samples", (5, 20), "Grid of 40 samples, four in each of ten columns")
_ANIMATION = Owed("sampling", alt="Animation: 20 images take shape out of noise")

_ADDED = (
    r"h_1 = \text{unflatten} + t_1",
    r"h_2 = \text{up}_1 + t_2",
)
_MULTIPLIED = (
    r"h_1 = \text{unflatten} \cdot t_1",
    r"h_2 = \text{up}_1 \cdot t_2",
)
_WITH_CLASS = (
    r"h_1 = c_1 \cdot \text{unflatten} + t_1",
    r"h_2 = c_2 \cdot \text{up}_1 + t_2",
)
_DDPM_TARGET = (
    r"x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \varepsilon",
    r"L = \mathbb{E}\, \| \varepsilon - \varepsilon_\theta(x_t, t) \|^2 / HWC",
)
_FLOW_TARGET = (
    r"x_t = (1 - \tfrac{t}{T})\, x_0 + \tfrac{t}{T}\, \varepsilon",
    r"L = \mathbb{E}\, \| (x_0 - \varepsilon) - u_\theta(x_t, t) \|^2 / HWC",
)
_TARGETS = {"ddpm": _DDPM_TARGET, "flow": _FLOW_TARGET}


def _with_class(formulas):
    """The same, of a network that is told the class."""
    return tuple(tex.replace("(x_t, t)", "(x_t, t, c)") for tex in formulas)


_DDPM_STEP = (
    r"\hat x_0 = (x_t - \sqrt{1 - \bar\alpha_t}\, \hat\varepsilon) / \sqrt{\bar\alpha_t}",
    r"x_{t-1} = \frac{\sqrt{\bar\alpha_{t-1}}\, \beta_t}{1 - \bar\alpha_t}\, \hat x_0"
    r" + \frac{\sqrt{\alpha_t}\, (1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t}\, x_t + \sigma_t z",
)
_FLOW_STEP = (r"x_s = x_t + \tfrac{t - s}{T}\, u_\theta(x_t, t)",)
_GUIDED_EPS = (
    r"\hat\varepsilon = \varepsilon_\varnothing + \gamma\, (\varepsilon_c - \varepsilon_\varnothing)",
)
_GUIDED_FLOW = (r"\hat u = u_\varnothing + \gamma\, (u_c - u_\varnothing)",)

SECTIONS = (
    Section(
        "1.1",
        "The unconditional UNet",
        None,
        {
            "ddpm": "The network takes a noisy image and gives back an image of the same size: two halvings"
            " of the resolution, a bottleneck of a single pixel, and a skip connection at each resolution."
        },
        {},
        (ARCHITECTURE,),
        brought_by="1.2.1",
    ),
    Section(
        "1.2",
        "Noising: what the denoiser is given",
        None,
        {"ddpm": "Training pairs cost nothing: add Gaussian noise to an image."},
        {"ddpm": (r"z = x + \sigma\, \varepsilon, \quad \varepsilon \sim \mathcal{N}(0, I)",)},
        (Owed("noising", alt="Grid of test images, noised more from left to right"),),
        brought_by="1.2.1",
    ),
    Section(
        "1.2.1",
        "Training the one-step denoiser",
        "1.2.1",
        {
            "ddpm": "The UNet learns to give back the clean image from one noised at σ = 0.5. Those shown are"
            " test images, which it has never seen."
        },
        {"ddpm": (r"L = \mathbb{E}\, \| D_\theta(z) - x \|^2 / HWC",)},
        (_DENOISED, _LOSS),
    ),
    Section(
        "1.2.2",
        "Out of distribution",
        "1.2.1",
        {
            "ddpm": "The denoiser of 1.2.1, trained for σ = 0.5 alone, is given one test image at all seven noise levels:"
            " the same noise each time, only weaker or stronger."
        },
        {},
        (
            Owed(
                "out_of_distribution",
                alt="Two rows of one image at seven noise levels: noisy above, denoised below",
            ),
        ),
    ),
    Section(
        "1.2.3",
        "Denoising pure noise",
        "1.2.3",
        {
            "ddpm": "The same network is asked to make images of noise alone. The noise says nothing about the image, so"
            " the least squared error is that of the mean over all training images: the network learns to draw it"
            " whatever it is given. The mean itself is beside it."
        },
        {"ddpm": (r"L = \mathbb{E}\, \| D_\theta(\varepsilon) - x \|^2 / HWC",)},
        (_DENOISED, _LOSS),
    ),
    Section(
        "2.1",
        "Time conditioning",
        None,
        {
            "ddpm": "The network is told how noisy its input is: t/T goes through two small fully connected blocks,"
            " whose outputs are added to two stages of the UNet.",
            "flow": "As in the DDPM edition, but the outputs are multiplied with the two stages.",
        },
        {"ddpm": _ADDED, "flow": _MULTIPLIED},
        (ARCHITECTURE,),
        brought_by="2.2",
    ),
    Section(
        "2.2",
        "Training the time-conditioned UNet",
        "2.2",
        {
            "ddpm": "Each image of a batch gets a timestep of its own and is noised to it; the network predicts the noise.",
            "flow": "Each image of a batch is moved to a random place on the straight line to its noise; the network"
            " predicts the direction of the line. (The course's t runs the other way.)",
        },
        _TARGETS,
        (_LOSS, _ONE_STEP),
    ),
    Section(
        "2.3",
        "Sampling from the time-conditioned UNet",
        "2.2",
        {
            "ddpm": "From pure noise, step by step, to a clean image; nobody says of which class. The estimate of the image"
            " is clipped to [0, 1], the noise z is fresh in each step, and the last step has none.",
            "flow": "From pure noise, Euler steps along the predicted direction from t down to s; the image that the direction"
            " leads to is clipped to [0, 1].",
        },
        {"ddpm": _DDPM_STEP, "flow": _FLOW_STEP},
        (_SAMPLES, _ANIMATION),
    ),
    Section(
        "2.4",
        "Class conditioning",
        None,
        {
            "ddpm": "The class that is wanted enters as a one-hot vector c through two more blocks, which multiply the stages."
            " Now and then in training the vector is zero, so that the network also learns to draw without a class.",
            "flow": "As in the DDPM edition: classes multiply, time is added.",
        },
        {"ddpm": _WITH_CLASS, "flow": _WITH_CLASS},
        (ARCHITECTURE,),
        brought_by="2.5",
    ),
    Section(
        "2.5",
        "Training the class-conditioned UNet",
        "2.5",
        {
            "ddpm": "As in 2.2, but the network is told the class of most images, and of the others nothing.",
            "flow": "As in 2.2, but the network is told the class of most images, and of the others nothing.",
        },
        {edition: _with_class(formulas) for edition, formulas in _TARGETS.items()},
        (_LOSS, _ONE_STEP),
    ),
    Section(
        "2.6",
        "Sampling with classifier-free guidance",
        "2.5",
        {
            "ddpm": "Each step asks the network twice, with the class and without, and goes γ times the difference:"
            " γ = 0 ignores the class, 1 is no guidance, 5 is what the course uses.",
            "flow": "As in the DDPM edition, with the predicted direction in place of the noise.",
        },
        {"ddpm": _GUIDED_EPS, "flow": _GUIDED_FLOW},
        (
            _SAMPLES,
            Owed(
                "guidance",
                alt="Grid of samples in three bands of rows: guidance scales 0, 5 and 10",
            ),
            _ANIMATION,
        ),
    ),
)
EDITIONS = {"ddpm": "DDPM", "flow": "Flow matching"}
