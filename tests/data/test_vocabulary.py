"""The vocabulary file: the right one wherever it comes from, no other from anywhere."""

from __future__ import annotations

import http.server
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ablab.core.fault import CheckFailed
from ablab.data import vocabulary
from ablab.data.vocabulary import NAME, SHA1_NAME, SHA256, SIZE, default_path, install, ranks, read

RIGHT = default_path().read_bytes()


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nothing is known of the file, and whose network is down."""
    for name in vocabulary._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(vocabulary, "URL", "http://127.0.0.1:1/o200k_base.tiktoken")
    return tmp_path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = {f"/{NAME}": RIGHT, "/short/" + NAME: RIGHT[:1000]}.get(self.path)
            self.send_response(200 if data else 404)
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def said(origin: str | None, to: Path) -> str:
    lines: list[str] = []
    assert install(origin, to, say=lines.append) == to
    assert to.read_bytes() == RIGHT
    return "\n".join(lines)


def test_where_it_lies() -> None:
    assert default_path() == Path(sys.prefix) / "share" / "ablab" / "o200k_base.tiktoken"
    assert read() == RIGHT and len(RIGHT) == SIZE


def test_a_place_that_cannot_be_written_names_the_option_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=f"is a folder; name a file in it: --to {tmp_path / NAME}$"):
        install(str(default_path()), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckFailed, match=r"cannot be written \(.*\); make it writable or choose another --to$"):
        install(str(default_path()), tmp_path / "file" / "vocab")


def test_the_ranks() -> None:
    found = ranks(RIGHT)
    assert len(found) == 199_998 and found[b"!"] == 0 and found[b"hello"] == 24_912


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"IQ== 0\nIg==\n", "line 2 of the o200k vocabulary is no token and rank; run 'ablab data vocab'"),
        (b"IQ== 0\nIg! 1\n", "line 2"),
        (b"IQ== 0\nIg== x\n", "line 2"),
        (b"IQ== 0\nIg== 2\n", "holds 2 ranks that are not 0 to 199997"),
    ],
)
def test_ranks_out_of_shape(data: bytes, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        ranks(data)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (
            RIGHT[:-1],
            rf"has {SIZE - 1} bytes and sha256 [0-9a-f]{{64}}, where the o200k vocabulary has {SIZE} and {SHA256}",
        ),
        (RIGHT[:-1] + b"8", f"has {SIZE} bytes and sha256 [0-9a-f]+, where"),
        (b"", f"has 0 bytes and sha256 e3b0c442[0-9a-f]+, where the o200k vocabulary has {SIZE} and {SHA256}"),
        (RIGHT + b"x", f"is larger than {SIZE} bytes, so it is not the o200k vocabulary"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, data: bytes, fault: str) -> None:
    file = tmp_path / NAME
    file.write_bytes(data)
    with pytest.raises(ValueError, match=rf"o200k_base\.tiktoken {fault}.*; give the path of the right one, or no"):
        read(file)
    with pytest.raises(ValueError, match=rf"not installed\. .*o200k_base\.tiktoken {fault}"):
        install(str(file), tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_missing_file_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"none: the o200k vocabulary cannot be read .No such file.*; give the path of"
    ):
        read(tmp_path / "none")
    with pytest.raises(ValueError, match=r"cannot be read .Is a directory"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"none cannot be read .No such file or directory.; get .* with its path"):
        install(str(tmp_path / "none"), tmp_path / "to")


@pytest.mark.parametrize("name", [NAME, SHA1_NAME])
def test_from_a_file_a_folder_and_a_wheel(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(RIGHT)
    with zipfile.ZipFile(tmp_path / "some.whl", "w") as archive:
        archive.writestr("some/other.txt", b"no")
        archive.writestr(f"some/cache/{name}", RIGHT)
    assert (
        said(str(tmp_path / "in" / name), tmp_path / "a" / "b") == f"{tmp_path}/a/b installed from {tmp_path}/in/{name}"
    )
    assert name in said(str(tmp_path / "in"), tmp_path / "c")
    assert said(str(tmp_path / "some.whl"), tmp_path / "d").endswith(f"some.whl:some/cache/{name}")


def test_the_hash_decides_among_two(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no")
    (tmp_path / SHA1_NAME).write_bytes(RIGHT)
    assert SHA1_NAME in said(str(tmp_path), tmp_path / "to")


def test_the_installed_one_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot be read .*; run 'ablab data vocab' to install the right one$"):
        read()


def test_a_damaged_wheel(tmp_path: Path) -> None:
    file = tmp_path / "some.whl"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(NAME, RIGHT)
    data = bytearray(file.read_bytes())
    data[500_000:500_100] = bytes(100)
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"not installed\. .*some\.whl cannot be read"):
        install(str(file), tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_places_without_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some.whl", "w") as archive:
        archive.writestr("some/other.txt", b"no")
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    for place, fault in [
        ("", f"holds no {NAME} and no {SHA1_NAME}"),
        ("some.whl", f"holds no {NAME} and no {SHA1_NAME}"),
        ("bad.zip", "cannot be read .File is not a zip file"),
    ]:
        with pytest.raises(ValueError, match=fault):
            install(str(tmp_path / place), tmp_path / "to")


def test_from_a_url(server: str, tmp_path: Path) -> None:
    assert "installed from http" in said(f"{server}/{NAME}", tmp_path / "a")
    assert "installed from http" in said(server, tmp_path / "b")  # a folder, as TIKTOKEN_ENCODINGS_BASE may be
    with pytest.raises(ValueError, match=r"not installed\. http.* cannot be read .*Not Found"):
        install(f"{server}/none/{NAME}", tmp_path / "c")
    with pytest.raises(ValueError, match="has 1000 bytes and sha256"):
        install(f"{server}/short/{NAME}", tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("variable", vocabulary._VARIABLES)
def test_from_the_folders_of_tiktoken(quiet: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    (quiet / "cache").mkdir()
    (quiet / "cache" / (NAME if variable.endswith("BASE") else SHA1_NAME)).write_bytes(RIGHT)
    monkeypatch.setenv(variable, str(quiet / "cache"))
    assert f"installed from {quiet}/cache" in said(None, quiet / "to")


@pytest.mark.parametrize("cache", ["data-gym-cache", "tiktoken-rs-cache"])
def test_from_the_caches_among_temporary_files(quiet: Path, cache: str) -> None:
    (quiet / "tmp" / cache).mkdir()
    (quiet / "tmp" / cache / SHA1_NAME).write_bytes(RIGHT)
    assert cache in said(None, quiet / "to")


def test_from_the_publisher_at_last(quiet: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (quiet / "tmp" / "data-gym-cache").mkdir()
    (quiet / "tmp" / "data-gym-cache" / SHA1_NAME).write_bytes(b"a download that broke off")
    monkeypatch.setattr(vocabulary, "URL", f"{server}/{NAME}")
    assert f"installed from {server}" in said(None, quiet / "to")


def test_nowhere_to_be_found(quiet: Path) -> None:
    (quiet / "tmp" / "data-gym-cache").mkdir()
    with pytest.raises(ValueError) as caught:
        install(None, quiet / "to")
    text = str(caught.value)
    assert "data-gym-cache holds no" in text and "http://127.0.0.1:1" in text and "refused" in text
    assert text.endswith(f"; get {NAME} (sha256 {SHA256}) and run 'ablab data vocab' with its path")


def test_what_is_there_already(quiet: Path) -> None:
    to = quiet / "to"
    to.write_bytes(RIGHT)
    assert said(None, to) == f"{to} is there already"
    to.write_bytes(RIGHT[:-5])  # a broken one is no reason to stop
    (quiet / "tmp" / "data-gym-cache").mkdir()
    (quiet / "tmp" / "data-gym-cache" / SHA1_NAME).write_bytes(RIGHT)
    assert "installed from" in said(None, to)


def test_as_a_program(tmp_path: Path) -> None:
    (tmp_path / "bad.whl").write_bytes(b"no zip")
    command = [sys.executable, "-P", "-m", "ablab.data.vocabulary", str(tmp_path / "bad.whl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "was not installed" in done.stderr and "Traceback" not in done.stderr
