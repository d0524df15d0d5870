"""The texts of failed pulls, in the words that clients look for. Sans-I/O.

Source: docs/spec/image-pull.md, section 18.
"""

from typing import Final

from guest.errors import DeadlineError, DecodeError, GuestError, PeerError, UnavailableError

MAX_TEXT: Final = 2000
"""Most characters of one error with its causes."""

ILLEGAL_REFERENCE: Final = "Image Pull error: Illegal image reference"
NO_LEGAL_TASK: Final = (
    "Image Pull error: failed to compose a legal image reference with given registry configuration"
)
CLIENT: Final = "Image Client error: "
PULLING: Final = "Errors happened when pulling image: "
MANIFEST: Final = "failed to pull image manifest: "
STREAM: Final = "Failed to async pull blob stream"
UNPACK: Final = "Failed to decode layer data stream: Failed to unpack layer"
LAYER_TEXTS: Final = ("Failed to ", "unequal uncompressed digest ")
"""How the texts of a layer's failures begin."""

BUNDLE: Final = "Failed to create bundle"
INTERNAL: Final = "Internal error"
DECRYPT: Final = (
    "Failed to decrypt layer: Failed to decrypt the image layer, please ensure that the "
    "decryption key is placed and correct"
)


def explain(error: GuestError) -> str:
    """The error's text, then its causes as far as the text does not name them."""
    first, *causes = error.causes()
    text = first
    for cause in causes:
        if cause and cause not in text:
            text += f": {cause}"
    return text[:MAX_TEXT]


def reworded(text: str, error: GuestError) -> GuestError:
    """An error of the same class under another text.

    A peer's bad bytes become its fault, and a step that took too long a peer that is not there:
    only the caller's own deadline is a `DeadlineError`.
    """
    if isinstance(error, DeadlineError):
        return UnavailableError(text)
    kind = PeerError if isinstance(error, DecodeError) else type(error)
    return kind(text)


def all_failed(image: str, failures: list[tuple[str, GuestError]]) -> GuestError:
    """The error of a pull whose every place failed, with the class of the last.

    Args:
        image: as the caller named it.
        failures: reference and error of each place, in order.
    """
    lines = [f"image: {reference}, error: {explain(error)}" for reference, error in failures]
    text = (
        f"Image Pull error: Failed to pull image {image} from all mirror/mapping locations or "
        "original location: " + "\n".join(lines)
    )
    return reworded(text, failures[-1][1])
