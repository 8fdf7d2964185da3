"""One tree of errors. Each class is one kind of failure; the message carries the fact the reader needs and the next step.

`slug` is the stable name that the command line's JSON and the HTTP problem types use. Knows nothing of HTTP or exit codes.
"""


class EarshotError(Exception):
    """Anything that Earshot itself refuses or cannot do."""

    slug = "internal"


class BadInput(EarshotError):
    """The caller's input or usage is at fault: trying again without a change does not help."""

    slug = "bad-input"


class WrongPath(BadInput):
    """A path that does not exist or may not be read."""

    slug = "wrong-path"


class AudioEmpty(BadInput):
    """No bytes at all."""

    slug = "audio-empty"


class AudioUndecodable(BadInput):
    """Not a sound in a format that Earshot reads, or one without a single sample."""

    slug = "audio-undecodable"


class AudioTooLong(BadInput):
    """More sound than the limit allows."""

    slug = "audio-too-long"


class AudioTooShort(BadInput):
    """A sound that ends before the part that is asked for begins."""

    slug = "audio-too-short"


class AudioNotFinite(BadInput):
    """Samples that are NaN or infinite."""

    slug = "audio-not-finite"


class AudioUnsupported(BadInput):
    """Decodable, but with a sample rate or a channel count outside the supported range."""

    slug = "audio-unsupported"


class BadOption(BadInput):
    """An option with a value that does not exist; the message names the allowed ones."""

    slug = "bad-option"


class WrongTable(BadInput):
    """A data set's table that is missing, or lacks a column; the message names both."""

    slug = "wrong-table"


class OutputMismatch(BadInput):
    """An existing output that was made differently; the message names the difference."""

    slug = "output-mismatch"


class StoreFailed(EarshotError):
    """A filesystem or object store that cannot be reached, or is full."""

    slug = "store-failed"


class JobFailed(EarshotError):
    """A bulk job that cannot go on; what it did is kept, and the same command goes on from there."""

    slug = "job-failed"


class WeightsMissing(EarshotError):
    """No weights where they were looked for."""

    slug = "weights-missing"


class WeightsCorrupt(EarshotError):
    """Weights whose hash is not the pinned one, or whose content does not parse."""

    slug = "weights-corrupt"


class Overloaded(EarshotError):
    """Every queue is full: worth another try a little later."""

    slug = "overloaded"


def rejection(slug: str, message: str) -> BadInput:
    """The error that was written down as a slug and a message."""
    kinds = {kind.slug: kind for kind in BadInput.__subclasses__()}
    return kinds.get(slug, BadInput)(message)
