"""Options that several commands share, under one name and with one meaning."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Literal

import typer

from padim.cli.console import Output
from padim.errors import UsageError

_SPEAKING = (
    ("as_json", Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]),
    ("quiet", Annotated[bool, typer.Option("-q", "--quiet", help="Errors and results only.")]),
    ("verbose", Annotated[bool, typer.Option("-v", "--verbose", help="Details as well.")]),
)


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that every command has, which say how it speaks.

    Args:
        command: Named arguments alone, each an option or an argument of Typer.

    Returns:
        What Typer makes a command of.
    """

    @wraps(command)
    def speak(*, as_json: bool, quiet: bool, verbose: bool, **rest: object) -> None:
        Output.as_json, Output.quiet, Output.verbose = as_json, quiet, verbose
        command(**rest)

    own = inspect.signature(command, eval_str=True).parameters.values()
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
        for name, option in _SPEAKING
    ]
    named = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
    signature = inspect.Signature([*named, *added])
    speak.__signature__ = signature  # type: ignore[attr-defined]  # what Typer reads
    speak.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
    return speak


Model = Annotated[
    Path, typer.Argument(help="A model file, or a graph (.onnx, .xml) that padim export wrote.")
]
OneCategory = Annotated[
    str | None, typer.Option("--category", metavar="NAME", help="Which one of a dataset's.")
]
Backbone = Annotated[str, typer.Option("--backbone", metavar="NAME", help="See padim backbones.")]
Recipe = Annotated[
    str, typer.Option("--recipe", metavar="NAME", help="standard, fast or reference.")
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", metavar="FILE", help="Local weights of the backbone."),
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda.")]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision", metavar="NAME", help="float32 or bfloat16; for a graph, of its products."
    ),
]
Engine = Annotated[
    str,
    typer.Option("--engine", metavar="NAME", help="auto, torch, onnxruntime or openvino computes."),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", help="Threads; one for each core by default."),
]
Store = Annotated[
    str, typer.Option("--store", metavar="NAME", help="The file holds float16 or float32.")
]
Size = Annotated[
    str | None,
    typer.Option("--size", metavar="PX", help="What the network sees: 256, or 256x512 (HxW)."),
]
Taps = Annotated[
    str | None, typer.Option("--taps", metavar="N,N", help="Blocks to tap, such as 1,2,4.")
]
Dims = Annotated[
    str | None,
    typer.Option("--dims", metavar="N", help="all, or how many dimensions to draw at random."),
]
Eps = Annotated[
    float | None, typer.Option("--eps", metavar="X", help="Added to the covariances' diagonal.")
]
EpsRule = Annotated[
    str | None,
    typer.Option("--eps-rule", metavar="NAME", help="absolute, or relative to the variance."),
]
Sigma = Annotated[
    float | None, typer.Option("--sigma", metavar="PX", help="Blur of the map; 0 for none.")
]
ScoreFraction = Annotated[
    float | None,
    typer.Option(
        "--score-fraction",
        metavar="X",
        help="The image score is the mean of this fraction of the hottest pixels; 0: the maximum.",
    ),
]
Roi = Annotated[
    Path | None,
    typer.Option(
        "--roi",
        metavar="FILE",
        help="Region of interest: a mask image, or a polygon in a .json. Nothing else counts.",
    ),
]
TilePx = Annotated[
    int | None,
    typer.Option(
        "--tile-px", metavar="N", help="Large images: the network sees parts of NxN px in turn."
    ),
]
TileOverlapPx = Annotated[
    int | None,
    typer.Option("--tile-overlap-px", metavar="N", help="By how much tiles overlap: 128."),
]
MaxMemory = Annotated[
    str | None,
    typer.Option("--max-memory", metavar="BYTES", help="Refuse a fit that needs more: 2GiB."),
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave unreadable images out and list them.")
]
FalseAlarmRate = Annotated[
    float | None,
    typer.Option(
        "--false-alarm-rate", metavar="X", help="Good images that may be called anomalous: 0.01."
    ),
]
PixelFalseAlarmRate = Annotated[
    float | None,
    typer.Option(
        "--pixel-false-alarm-rate", metavar="X", help="Pixels of good images that may be: 0.001."
    ),
]
Layout = Annotated[
    str | None,
    typer.Option("--layout", metavar="NAME", help="Take the data for this: mvtec, visa, btad, ..."),
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Look into folders inside folders.")]


def parse_size(text: str | None, what: str = "size") -> tuple[int, int] | None:
    """Read ``256`` or ``256x512`` as (height, width).

    Raises:
        UsageError: It is neither.
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise UsageError(f"The {what} is {text!r}, but needs to be such as 256 or 256x512 (HxW).")
    return int(sides[0]), int(sides[-1])


def parse_taps(text: str | None) -> tuple[int, ...] | None:
    """Read ``1,2,4``.

    Raises:
        UsageError: It is no list of whole numbers.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"The taps are {text!r}, but need to be such as 1,2,4.") from None


def parse_dims(text: str | None) -> int | Literal["all"] | None:
    """Read ``all`` or a whole number.

    Raises:
        UsageError: It is neither.
    """
    if text is None:
        return None
    if text == "all":
        return "all"
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"dims is {text!r}, but needs to be all or a whole number.") from None
