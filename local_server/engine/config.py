"""The embedded engine's command line, read into one frozen object.

It takes ComfyUI's flags so that both engines can be started by the same command; those that have
no meaning here (devices, precision, attention) are accepted and ignored, known or not.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from local_server.engine.model_paths import ExtraPath, read_extra_paths

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CacheKind = Literal["classic", "lru", "none"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How one engine runs.

    Attributes:
        extra_models: more folders that are searched for models.
        listen: addresses to listen on.
        port: TCP port; 0 picks a free one.
        input_dir, output_dir, temp_dir, models_dir: absolute folders; `temp_dir` is wiped at start.
        cache: which results survive a prompt: those of the last prompt, the `cache_size` newest,
            or none.
        cache_size: results kept by the `lru` cache.
        metadata: whether PNG files carry the graph.
        previews: whether nodes that count their steps send pictures.
        max_upload_bytes: largest request body.
        test_faults: whether the fault nodes and switches exist.
        boot_seconds: delay before listening, in seconds; only with `test_faults`.
        exit_at_boot: exit status to end with at once; only with `test_faults`.
    """

    input_dir: Path
    output_dir: Path
    temp_dir: Path
    models_dir: Path
    extra_models: tuple[ExtraPath, ...] = ()
    listen: tuple[str, ...] = ("127.0.0.1",)
    port: int = 0
    cache: CacheKind = "classic"
    cache_size: int = 0
    metadata: bool = True
    previews: bool = False
    max_upload_bytes: int = 100 * 1024 * 1024
    test_faults: bool = False
    boot_seconds: float = 0.0
    exit_at_boot: int | None = None

    @classmethod
    def below(cls, base: Path, *, test_faults: bool = False) -> EngineConfig:
        """Give the configuration whose folders all lie under `base`, on a free port."""
        base = base.absolute()
        return cls(
            input_dir=base / "input",
            output_dir=base / "output",
            temp_dir=base / "temp",
            models_dir=base / "models",
            test_faults=test_faults,
        )


def parse_arguments(arguments: Sequence[str]) -> EngineConfig:
    """Read a ComfyUI command line; unknown flags are ignored.

    Raises:
        SystemExit: a known flag has a value of the wrong kind, or a file of extra model paths
            cannot be read.
    """
    known, _ = _parser().parse_known_args(arguments)
    base = (known.base_directory or Path(tempfile.gettempdir(), "comfyfn-engine")).absolute()
    temp = known.temp_directory
    faults = known.test_faults
    return EngineConfig(
        input_dir=(known.input_directory or base / "input").absolute(),
        output_dir=(known.output_directory or base / "output").absolute(),
        # ComfyUI makes a folder of its own below the one named: it wipes it at start.
        temp_dir=(temp / "temp" if temp else base / "temp").absolute(),
        models_dir=(known.models_directory or base / "models").absolute(),
        extra_models=tuple(_extra_models(known.extra_model_paths_config)),
        listen=tuple(known.listen.split(",")),
        port=known.port,
        cache="lru" if known.cache_lru > 0 else "none" if known.cache_none else "classic",
        cache_size=known.cache_lru,
        metadata=not known.disable_metadata,
        previews=known.preview_method != "none",
        max_upload_bytes=round(known.max_upload_size * 1024 * 1024),
        test_faults=faults,
        boot_seconds=known.test_boot_seconds if faults else 0.0,
        exit_at_boot=known.test_exit_at_boot if faults else None,
    )


def _extra_models(configs: list[list[Path]]) -> Iterator[ExtraPath]:
    for config in itertools.chain.from_iterable(configs):
        try:
            yield from read_extra_paths(config)
        except (OSError, ValueError) as error:
            raise SystemExit(f"--extra-model-paths-config: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m local_server.engine",
        description="comfyfn's embedded engine: ComfyUI's protocol and image nodes on the CPU.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--listen", nargs="?", default="127.0.0.1", const="0.0.0.0,::", metavar="IP")
    add("--port", type=int, default=8188)
    add("--base-directory", type=Path, help="folder of input, output, temp and models")
    add("--input-directory", type=Path)
    add("--output-directory", type=Path)
    add("--temp-directory", type=Path, help="a folder `temp` below it is wiped at start")
    add("--models-directory", type=Path)
    add("--user-directory", type=Path, help=argparse.SUPPRESS)
    add("--max-upload-size", type=float, default=100, metavar="MIB")
    add("--preview-method", default="none", choices=["none", "auto", "latent2rgb", "taesd"])
    caches = parser.add_mutually_exclusive_group()
    caches.add_argument("--cache-classic", action="store_true")
    caches.add_argument("--cache-lru", type=int, default=0, metavar="N")
    caches.add_argument("--cache-none", action="store_true")
    add("--disable-metadata", action="store_true")
    add(
        "--extra-model-paths-config",
        type=Path,
        nargs="+",
        action="append",
        default=[],
        metavar="FILE",
        help="YAML that names more folders of models",
    )
    add("--test-faults", action="store_true", help="nodes and switches that fail on purpose")
    add("--test-boot-seconds", type=float, default=0.0, metavar="S")
    add("--test-exit-at-boot", type=int, metavar="CODE")
    return parser
