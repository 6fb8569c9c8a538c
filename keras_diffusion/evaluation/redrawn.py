"""What redrawing costs an evaluation."""

from keras_diffusion.errors import UserError
from keras_diffusion.sampling import redrawing


class Redrawn:
    """Which images are drawn again, and how many were: a reader that counts what it reads.

    Args:
        classifier: `Classifier`, or None where every image is drawn once.
        below: as `sample`'s `redraw`.
    """

    def __init__(self, classifier, below):
        self.classifier, self.below, self.read = classifier, below, 0

    @classmethod
    def of(cls, subject, judge, below):
        """That of a subject; `below` None is its own.

        Raises:
            UserError: where the judge is to judge its own choice, or there is no reader.
        """
        try:
            asked = redrawing.wanted(
                below,
                subject.find_reader,
                num_classes=subject.num_classes,
                usual=subject.redraw,
            )
        except ValueError as error:
            raise UserError(str(error)) from None
        if asked is None:
            return cls(None, 0.0)
        if asked.reader.hashes & judge.hashes:
            raise UserError(
                "reader: expected another classifier than the judge, got it, alone or joined with others"
            )
        return cls(asked.reader, asked.below)

    def anew(self):
        """The same that has read nothing yet."""
        return Redrawn(self.classifier, self.below)

    def __call__(self, images):
        self.read += len(images)
        return self.classifier.probabilities(images)

    def arguments(self):
        """Of `sample`."""
        return {"redraw": self.below, "reader": self} if self.below else {"redraw": 0.0}

    def to_json(self, calls, count):
        """For evaluation.json: network calls of an image at most and in the mean, of `count` images that were drawn."""
        if not self.below:
            return {"network_calls": calls, "network_calls_mean": calls}
        share = self.read / count - 1
        return {
            "redraw": self.below,
            "reader": self.classifier.sha256,
            "redrawn": share,
            "network_calls": 2 * calls,
            "network_calls_mean": calls * (1 + share),
        }
