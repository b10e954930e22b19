from __future__ import annotations

from pathlib import Path

import pytest

from local_server.engine.config import EngineConfig, parse_arguments


def test_comfyuis_command_line_is_understood(tmp_path: Path) -> None:
    """The folders, the address and the limits are read from ComfyUI's flags."""
    folders = {"input": "in", "output": "out", "temp": "", "models": "models"}
    flags = [f"--{kind}-directory={tmp_path / name}" for kind, name in folders.items()]
    flags += ["--port", "8190", "--listen", "127.0.0.1,::1", "--disable-metadata"]
    flags += ["--max-upload-size", "1.5", "--preview-method", "auto"]

    config = parse_arguments(flags)

    assert config == EngineConfig(
        input_dir=tmp_path / "in",
        output_dir=tmp_path / "out",
        temp_dir=tmp_path / "temp",
        models_dir=tmp_path / "models",
        listen=("127.0.0.1", "::1"),
        port=8190,
        metadata=False,
        previews=True,
        max_upload_bytes=1572864,
    )


def test_flags_without_a_meaning_here_are_ignored(tmp_path: Path) -> None:
    """Devices, precision and flags of later versions do not keep the engine from starting."""
    flags = ["--cpu", "--disable-auto-launch", "--dont-print-server", "--cuda-device", "0"]
    flags += ["--fast", "fp16_accumulation", "--use-sage-attention", "--user-directory", "/tmp/u"]
    flags += ["--verbose", "DEBUG", "--unknown"]

    config = parse_arguments([*flags, "--base-directory", str(tmp_path)])

    assert config.input_dir == tmp_path / "input"
    assert config.models_dir == tmp_path / "models"
    assert config.port == 8188


@pytest.mark.parametrize(
    ("flags", "kind", "size"),
    [
        ([], "classic", 0),
        (["--cache-classic"], "classic", 0),
        (["--cache-lru", "7"], "lru", 7),
        (["--cache-none"], "none", 0),
    ],
)
def test_the_cache_is_chosen_by_flag(flags: list[str], kind: str, size: int) -> None:
    """The three caches have ComfyUI's flags."""
    config = parse_arguments(flags)

    assert (config.cache, config.cache_size) == (kind, size)


def test_faults_at_boot_need_the_switch_for_faults() -> None:
    """Without --test-faults the flags that break the start do nothing."""
    flags = ["--test-boot-seconds", "2", "--test-exit-at-boot", "3"]

    off, on = parse_arguments(flags), parse_arguments([*flags, "--test-faults"])

    assert (off.test_faults, off.boot_seconds, off.exit_at_boot) == (False, 0.0, None)
    assert (on.test_faults, on.boot_seconds, on.exit_at_boot) == (True, 2.0, 3)


def test_a_bad_value_ends_the_start() -> None:
    """A port that is no number is refused."""
    with pytest.raises(SystemExit):
        parse_arguments(["--port", "many"])


def test_files_of_extra_model_paths_are_read(tmp_path: Path) -> None:
    """Several after one flag, and the flag several times; one that is not there ends it."""
    files = []
    for name in ("a", "b", "c"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"x: {{loras: /{name}}}")
        files.append(str(path))
    flag = "--extra-model-paths-config"

    config = parse_arguments([flag, *files[:2], "--cpu", flag, files[2]])

    assert [one.path for one in config.extra_models] == [Path("/a"), Path("/b"), Path("/c")]
    with pytest.raises(SystemExit, match="extra-model-paths-config"):
        parse_arguments([flag, str(tmp_path / "nowhere.yaml")])
