"""The one error of the image build. Sans-I/O."""


class ImageError(Exception):
    """The image cannot be built, measured or booted; the text says why."""
