"""Images and models behind a network: a real object store and a real web server."""

import os
import socket
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

s3fs = pytest.importorskip("s3fs", reason="it is brought by those who have an object store")
pytest.importorskip("moto.server", reason="no object store is installed")

import places_net  # noqa: E402  # once moto is there
from places_net import ObjectStore, forget_stores, object_store, web_server  # noqa: E402  # after importorskip
from trees import make_category, striped  # noqa: E402  # after importorskip

import padim  # noqa: E402  # after importorskip
from padim.cli import main  # noqa: E402  # after importorskip
from padim.datasets import list_images  # noqa: E402  # after importorskip
from padim.errors import ImageReadError, PathMissingError, UnreachableError  # noqa: E402  # after importorskip
from padim.images.ahead import load_ahead  # noqa: E402  # after importorskip
from padim.images.decode import read_image  # noqa: E402  # after importorskip
from padim.places import copy_here, find_place  # noqa: E402  # after importorskip
from padim.scoring.graph_file import part_beside  # noqa: E402  # after importorskip

SIZE = ["--size-px", "64", "--engine", "torch"]  # which writes no graph first


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory, store: ObjectStore) -> Path:
    """A category here and in the store, with a model of it."""
    folder = make_category(tmp_path_factory.mktemp("far") / "part")
    assert main(["fit", str(folder), "-o", str(folder / "part.safetensors"), *SIZE]) == 0
    store.put_folder(folder, "part")
    return folder


def test_a_model_is_the_same_wherever_its_images_are(
    tmp_path: Path, part: Path, store: ObjectStore
) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    from pyarrow import parquet

    images = sorted((part / "train/good").iterdir())
    with tarfile.open(tmp_path / "good.tar", "w") as tar:
        for image in images:
            tar.add(image, arcname=image.name)
    columns = {
        "path": [image.name for image in images],
        "image": [image.read_bytes() for image in images],
        "split": ["train"] * len(images),
        "label": ["good"] * len(images),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    lines = [f"s3://parts/part/train/good/{image.name},train,good" for image in images]
    (tmp_path / "urls.csv").write_text("\n".join(["path,split,label", *lines]))
    with web_server(part / "train") as address:
        places = [
            str(part / "train/good"),
            "s3://parts/part/train/good",
            f"{address}/good/",
            str(tmp_path / "good.tar"),
            store.put("good.tar", (tmp_path / "good.tar").read_bytes()),
            str(tmp_path / "rows.parquet"),
            store.put("rows.parquet", (tmp_path / "rows.parquet").read_bytes()),
            str(tmp_path / "urls.csv"),
            store.put("part/train/lists/urls.csv", (tmp_path / "urls.csv").read_bytes()),
        ]
        models = []
        for i, place in enumerate(places):
            out = tmp_path / f"{i}.safetensors"
            assert main(["fit", place, "-o", str(out), *SIZE, "-q"]) == 0
            models.append(out.read_bytes())

    assert [model == models[0] for model in models] == [True] * len(places)


def test_a_model_and_images_by_url_give_what_files_give(
    tmp_path: Path, part: Path, store: ObjectStore
) -> None:
    far = "s3://parts/part"
    for model, images, out in (
        (str(part / "part.safetensors"), str(part / "test"), tmp_path / "here"),
        (f"{far}/part.safetensors", f"{far}/test", tmp_path / "there"),
    ):
        assert main(["predict", model, images, "-o", str(out), "--recursive"]) == 0

    names = [
        {path.relative_to(out).as_posix(): path for path in out.rglob("*.png")}
        for out in (tmp_path / "here", tmp_path / "there")
    ]
    assert names[0].keys() == names[1].keys()
    assert all(names[0][name].read_bytes() == names[1][name].read_bytes() for name in names[0])
    scores = [
        [line.split(",")[1:] for line in (tmp_path / out / "predictions.csv").read_text().split()]
        for out in ("here", "there")
    ]
    assert [row[:1] for row in scores[0]] == [row[:1] for row in scores[1]]
    assert "s3://parts/part/test/spot/0.png" in (tmp_path / "there/predictions.csv").read_text()


def test_every_command_takes_a_url(
    tmp_path: Path, part: Path, store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    far, here = "s3://parts/part", str(part / "part.safetensors")
    kept = str(tmp_path / "kept.safetensors")
    good = f"{far}/train/good"

    assert main(["info", f"{far}/part.safetensors"]) == 0
    assert "s3://parts/part/part.safetensors" in capsys.readouterr().out
    assert main(["check", far]) == 0
    assert main(["evaluate", f"{far}/part.safetensors", far]) == 0
    assert main(["calibrate", here, f"{far}/test/good", "--anomalous", f"{far}/test/spot"]) == 0
    assert main(["fit", f"{good}", "-o", kept, "--keep-moments", *SIZE]) == 0
    assert main(["update", kept, f"{far}/test/good"]) == 0
    assert main(["forget", kept, f"{far}/test/good/0.png"]) == 0
    capsys.readouterr()
    for words in (["calibrate"], ["update"]):
        assert main([*words, f"{far}/part.safetensors", f"{far}/test/good"]) == 2
        assert "cannot be written to" in capsys.readouterr().err


@pytest.mark.slow
def test_a_benchmark_takes_a_url(tmp_path: Path, part: Path, store: ObjectStore) -> None:
    assert main(["benchmark", "s3://parts/part", "-o", str(tmp_path / "run"), *SIZE]) == 0
    assert list((tmp_path / "run/pictures").rglob("*.png"))


def test_python_takes_a_url(part: Path, store: ObjectStore) -> None:
    model = padim.load("s3://parts/part/part.safetensors")
    fitted = padim.fit("s3://parts/part/train/good", size_px=(64, 64), engine="torch")

    there = model.predict("s3://parts/part/test/spot/0.png")

    here = padim.load(part / "part.safetensors").predict(part / "test/spot/0.png")
    assert there.score == here.score
    assert str(there.path) == "s3://parts/part/test/spot/0.png"
    assert fitted.state.image_sha256 == padim.load(part / "part.safetensors").state.image_sha256


def test_a_model_that_has_changed_is_fetched_anew(part: Path, store: ObjectStore) -> None:
    content = (part / "part.safetensors").read_bytes()
    url = store.put("changing.safetensors", content)
    padim.load(url)

    store.put("changing.safetensors", content[:5000])

    with pytest.raises(padim.errors.ModelFileError, match=r"s3://parts/changing.safetensors is no"):
        padim.load(url)


@pytest.mark.slow
def test_an_exported_graph_is_fetched_with_its_weights(
    tmp_path: Path, part: Path, store: ObjectStore
) -> None:
    graph = tmp_path / "part.onnx"
    assert main(["export", str(part / "part.safetensors"), "-o", str(graph)]) == 0
    for path in tmp_path.glob("part.onnx*"):
        store.put(f"graphs/{path.name}", path.read_bytes())

    there = padim.load("s3://parts/graphs/part.onnx").predict(part / "test/spot/0.png")

    assert there.score == padim.load(graph).predict(part / "test/spot/0.png").score
    assert main(["info", "s3://parts/graphs/part.onnx"]) == 0


def test_images_are_fetched_once_and_never_written(
    tmp_path: Path, part: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    asked: list[str] = []
    paths = list_images(find_place("s3://parts/part/train/good"))
    read = type(paths[0]).read_bytes
    monkeypatch.setattr(
        type(paths[0]), "read_bytes", lambda path: (asked.append(path.name), read(path))[1]
    )

    loaded = list(load_ahead(paths, np.asarray, hashed=True))

    assert sorted(asked) == [path.name for path in paths]
    assert all(one.sha256 for one in loaded)
    assert not list((tmp_path / "tmp").iterdir())


def test_a_folder_is_listed_without_a_look_at_each_file(store: ObjectStore) -> None:
    for i in range(30):
        store.put(f"many/{i}.png", b"x")
    asked: list[str] = []
    forget_stores()
    fs = places_net.find_url_store("s3")._connect()
    call = fs._call_s3

    async def count(method: str, *given: object, **more: object) -> object:
        asked.append(method)
        return await call(method, *given, **more)

    fs._call_s3 = count

    assert len(list_images(find_place("s3://parts/many"))) == 30
    assert len(asked) <= 3  # is it there, is it a folder, what is in it
    forget_stores()


def refuse(url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> str:
    """What a fit says that fails."""
    out = tmp_path / "part.safetensors"
    before = set(tmp_path.iterdir())
    assert main(["fit", url, "-o", str(out), *SIZE]) in (1, 2)
    assert set(tmp_path.iterdir()) == before
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def test_what_is_not_in_the_store_is_named(
    store: ObjectStore, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for url in ("s3://nowhere/good", "s3://parts/nothing", "s3://parts/nothing.png"):
        assert f"{url} does not exist" in refuse(url, capsys, tmp_path)
    with pytest.raises(PathMissingError, match=r"s3://parts/no.safetensors does not exist"):
        padim.load("s3://parts/no.safetensors")


def test_a_store_that_is_not_there_ends_the_run(
    store: ObjectStore,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{taken.getsockname()[1]}"  # bound, and listens to nobody
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{closed}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        forget_stores()
        assert "s3://parts cannot be reached" in refuse("s3://parts/good", capsys, tmp_path)
        assert f"http://{closed} cannot be reached" in refuse(
            f"http://{closed}/good.png", capsys, tmp_path
        )
        left_out: list[ImageReadError] = []
        loaded = load_ahead([f"http://{closed}/good.png"], np.asarray, left_out.append)
        with pytest.raises(UnreachableError, match=r"cannot be reached"):
            next(loaded)
        assert not left_out
    assert "http://nowhere.invalid cannot be reached" in refuse(
        "http://nowhere.invalid/good.png", capsys, tmp_path
    )
    forget_stores()


def test_wrong_credentials_end_the_run(
    store: ObjectStore,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = store.put("guarded/a.png", b"x")
    with store.guarding():
        forget_stores()
        assert "may not be read" in refuse("s3://parts/guarded", capsys, tmp_path)
        with pytest.raises(
            UnreachableError, match=r"may not be read \(.*\). Check the credentials"
        ):
            read_image(find_place(url))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    forget_stores()
    assert "Check the credentials" in refuse("s3://parts/guarded", capsys, tmp_path)
    forget_stores()


def test_an_image_that_is_gone_can_be_left_out(
    tmp_path: Path, part: Path, store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = ["s3://parts/part/test/good/0.png", "s3://parts/part/gone.png"]
    model = str(part / "part.safetensors")
    with pytest.raises(ImageReadError, match=r"s3://parts/part/gone.png .* does not exist"):
        read_image(find_place(urls[1]))
    lines = "\n".join(["path,split,label", f"{urls[0]},test,good", f"{urls[1]},test,good"])
    (tmp_path / "m.csv").write_text(lines)

    assert main(["evaluate", model, str(tmp_path / "m.csv"), "--skip-unreadable"]) == 0
    assert "1 unreadable image was left out" in capsys.readouterr().out


def test_the_web_says_what_is_wrong_with_an_image(tmp_path: Path) -> None:
    with web_server(tmp_path) as address:
        with pytest.raises(ImageReadError, match=r"broken/a.png .*: its server answers 500"):
            read_image(find_place(f"{address}/broken/a.png"))
        with pytest.raises(ImageReadError, match=r"/a.png .*: it does not exist"):
            read_image(find_place(f"{address}/a.png"))
        with pytest.raises(UnreachableError, match=r"/secret/a.png may not be read"):
            read_image(find_place(f"{address}/secret/a.png"))


def test_secrets_of_an_address_are_not_said(
    store: ObjectStore, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with web_server(tmp_path) as address:
        host = address.removeprefix("http://")
        signed = f"http://u:word@{host}"
        said = refuse(f"{signed}/secret/x.png?sig=abc", capsys, tmp_path)
        assert f"{address}/secret/x.png?... may not be read" in said
        assert "word" not in said
        assert "abc" not in said
        assert f"{address}/x.png?... does not exist" in refuse(
            f"{signed}/x.png?sig=abc", capsys, tmp_path
        )
    said = refuse(f"{signed}/x.png?sig=abc", capsys, tmp_path)
    assert f"error: http://{host} cannot be reached" in said
    assert "word" not in said
    assert "abc" not in said
    forget_stores()


def test_a_missing_object_may_be_called_credentials(store: ObjectStore) -> None:
    with pytest.raises(ImageReadError, match=r"credentials/1.png .*: it does not exist"):
        read_image(find_place("s3://parts/credentials/1.png"))


def test_the_web_says_when_a_file_changed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    os.utime(tmp_path / "a.png", (1_700_000_000, 1_700_000_000))
    with web_server(tmp_path) as address:
        place = find_place(f"{address}/a.png")

        assert place.stat().st_mtime == 1_700_000_000
        assert place.look().identity is not None


def test_a_tar_of_a_server_that_never_says_when_it_changes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "undated").mkdir()
    with tarfile.open(tmp_path / "undated/a.tar", "w") as tar:
        tar.add(__file__, arcname="a.png")
    with web_server(tmp_path) as address:
        member = find_place(f"{address}/undated/a.tar/a.png")
        with pytest.raises(ImageReadError, match=r"does not say when it changes"):
            read_image(member)


def test_a_tar_in_the_store_that_has_changed_gives_no_other_image(
    tmp_path: Path, part: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("padim.places.archives._BELIEVED_S", 0.0)
    images = sorted((part / "train/good").iterdir())[:2]
    for given in (images, images[::-1]):
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for image in given:
                tar.add(image, arcname=image.name)
        url = store.put("changing.tar", (tmp_path / "a.tar").read_bytes())
        if given is images:
            listed = list_images(find_place(url))
            assert listed[0].read_bytes() == images[0].read_bytes()

    with pytest.raises(ImageReadError, match=r"its tar has changed; list it again"):
        read_image(listed[0])


def test_what_a_store_refuses_beside_a_graph_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "unlisted").mkdir()
    (tmp_path / "unlisted/m.onnx").write_bytes(b"graph")
    with web_server(tmp_path) as address:
        graph = find_place(f"{address}/unlisted/m.onnx?sig=a")

        here = copy_here(graph, part_beside(graph))

        assert here.read_bytes() == b"graph"
        assert [path.name for path in here.parent.iterdir()] == ["m.onnx"]


def test_weights_beside_a_graph_may_be_larger_than_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"graph")
    (tmp_path / "m.onnx.data").write_bytes(b"weights")
    monkeypatch.setattr("padim.places.urls.MOST_BYTES", 4)
    with web_server(tmp_path) as address:
        graph = find_place(f"{address}/m.onnx?sig=a")

        here = copy_here(graph, part_beside(graph))

        assert here.with_name("m.onnx.data").read_bytes() == b"weights"


def test_a_query_belongs_to_the_name(tmp_path: Path, part: Path) -> None:
    with web_server(part) as address:
        url = f"{address}/test/spot/0.png?sig=a%2Fb&u=http://x//y"
        out = str(tmp_path / "out")
        assert main(["predict", str(part / "part.safetensors"), url, "-o", out]) == 0
        assert url in (tmp_path / "out/predictions.csv").read_text()


def test_a_tar_needs_a_server_that_gives_parts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(__file__, arcname="a.png")
    with web_server(tmp_path) as address:
        member = find_place(f"{address}/a.tar/a.png")
        with pytest.raises(ImageReadError, match=r"gives no parts of files, which this needs"):
            read_image(member)


def test_images_are_on_their_way_together(tmp_path: Path) -> None:
    for i in range(32):
        striped(i).save(tmp_path / f"{i}.png")
    with web_server(tmp_path, delay_s=0.3) as address:
        urls = [f"{address}/{i}.png" for i in range(32)]
        list(load_ahead(urls[:1], np.asarray))  # which loads what is needed for it
        start_s = time.monotonic()
        loaded = list(load_ahead(urls, np.asarray, hashed=True))
        took_s = time.monotonic() - start_s

    assert [str(one.path) for one in loaded] == urls
    assert took_s < 32 * 0.3 / 2  # as long as two at a time would take


def test_a_stream_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("padim.places.urls.MOST_BYTES", 2**22)
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        peer, _ = server.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
            try:
                while True:
                    peer.sendall(bytes(2**16))
            except OSError:  # the other side has seen enough
                pass

    thread = threading.Thread(target=answer)
    thread.start()
    url = f"http://127.0.0.1:{server.getsockname()[1]}/camera"
    with pytest.raises(ImageReadError, match=r"it has more than 4 MiB"):
        read_image(find_place(url))
    forget_stores()
    thread.join(30)
    server.close()


def test_an_answer_that_is_cut_off_ends_the_run() -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        peer, _ = server.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nfew")

    thread = threading.Thread(target=answer)
    thread.start()
    url = f"http://127.0.0.1:{server.getsockname()[1]}/a.png"
    with pytest.raises(UnreachableError, match=r"cannot be reached"):
        read_image(find_place(url))
    forget_stores()
    thread.join(30)
    server.close()


def test_a_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    forget_stores()
    assert "needs gcsfs, which is not installed. Install it with: pip install gcsfs" in refuse(
        "gs://bucket/good", capsys, tmp_path
    )
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    assert "padim-efficientnet[remote]" in refuse("s3://bucket/good", capsys, tmp_path)
    forget_stores()


@pytest.mark.slow
def test_images_of_a_store_are_fitted_on_where_they_are(
    tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    for i in range(200):
        buffer = io.BytesIO()
        striped(i, 32).save(buffer, "PNG")
        store.put(f"hundreds/{i:05}.png", buffer.getvalue())
    work, temporary = tmp_path / "work", tmp_path / "tmp"
    work.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    most = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.1):
            files = (path for folder in (work, temporary) for path in folder.rglob("*"))
            most = max(most, sum(1 for path in files if path.suffix == ".png"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = main(["fit", "s3://parts/hundreds", "-o", "part.safetensors", *SIZE])
    done.set()
    watcher.join()

    assert status == 0
    assert most == 0
    assert os.listdir(temporary) == []  # noqa: PTH208  # the names alone
