"""A shared store, against a real S3 server on loopback and in a folder: shared work, first writer
wins, nothing believed.
"""

import json
import multiprocessing
import os
import uuid

import pytest

from sintra.core.artifact import Failure
from sintra.core.canonical import canonical, sha256
from sintra.core.errors import UserError
from sintra.store.maintenance import verify_blobs
from sintra.store.remote.address import Address, parse_address
from sintra.store.remote.shared import SharedStore
from sintra.store.remote.shared_entries import (
    RemoteDataError,
    format_shared_entry,
    parse_shared_entry,
)
from sintra.store.store import Store

pytest.importorskip("obstore")
pytest.importorskip("moto")
SECRET = "0123456789abcdef"


@pytest.fixture(scope="module")
def s3():
    from s3_server import S3

    server = S3()
    yield server
    server.stop()


@pytest.fixture
def bucket(s3, monkeypatch):
    """A fresh bucket, and the environment to reach it."""
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    return s3.bucket(f"b{uuid.uuid4().hex[:12]}")


@pytest.fixture(params=["s3", "folder"])
def remote(request, tmp_path):
    """The address of an empty shared store."""
    return (
        request.getfixturevalue("bucket") if request.param == "s3" else f"file://{tmp_path}/shared"
    )


def action(number=0):
    return {
        "schema": 1,
        "stage": "made",
        "version": 1,
        "tools": {},
        "params": {"number": number},
        "inputs": {},
    }


def key_of(number=0):
    return sha256(canonical(action(number)))


def publish(cache, number, text, size=0):
    """A cache with a step's result in it: two files, one of them in a folder."""
    store = Store(cache)
    folder = store.folder("tmp") / f"{key_of(number)}.{uuid.uuid4().hex}"
    (folder / "deep").mkdir(parents=True)
    (folder / "f.txt").write_bytes(text.encode() + os.urandom(size))
    (folder / "deep" / "empty").touch()
    store.publish(
        key_of(number),
        store.put_tree(folder),
        {"step": f"made:{number}", "stage": "made", "action": action(number)},
    )
    return store


def shared(url, said=None, mode="readwrite"):
    return SharedStore(Address(url, mode == "readwrite"), (said if said is not None else []).append)


def objects(url):
    return shared(url).objects


def names(url, prefix=""):
    return sorted(objects(url).list_names(prefix or None))


def test_what_one_pushes_another_pulls(remote, tmp_path):
    one = publish(tmp_path / "one", 0, "hello", 20_000_000)
    assert shared(remote).push(one, key_of()) == "pushed"
    assert shared(remote).push(one, key_of()) == "there"
    two = Store(tmp_path / "two")
    found = shared(remote).pull(two, key_of())
    assert found == one.lookup(key_of()) == Store(tmp_path / "two").lookup(key_of())
    assert two.read_entry(key_of()) == one.read_entry(key_of())
    assert list(verify_blobs(two)) == []
    assert two.blob_path(found.files[1].sha256).stat().st_mode & 0o222 == 0
    assert list(two.folder("tmp").iterdir()) == []
    assert shared(remote).pull(two, key_of(1)) is None


def test_a_failure_of_the_action_is_shared_one_of_the_machine_is_not(remote, tmp_path):
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    about = {"step": "made:x", "stage": "made"}
    one.publish(key_of(0), Failure("unsupported", "no"), about | {"action": action(0)})
    one.publish(
        key_of(1), Failure("out_of_memory", "too small here"), about | {"action": action(1)}
    )
    assert [shared(remote).push(one, key_of(n)) for n in (0, 1)] == ["pushed", "kept"]
    assert shared(remote).pull(two, key_of(0)) == Failure("unsupported", "no")


def test_read_only_pushes_nothing(remote, tmp_path):
    shared(remote).objects  # noqa: B018 (makes the folder)
    assert (
        shared(remote, mode="readonly").push(publish(tmp_path / "one", 0, "x"), key_of()) == "kept"
    )
    assert names(remote) == []


@pytest.mark.parametrize("damage", ["flipped", "short", "long", "gone"])
def test_a_damaged_blob_is_refused_and_replaced(remote, tmp_path, damage):
    one, two, said = publish(tmp_path / "one", 0, "a" * 100), Store(tmp_path / "two"), []
    shared(remote).push(one, key_of())
    there, file = objects(remote), one.lookup(key_of()).files[1]
    path = f"cas/{file.sha256[:2]}/{file.sha256}"
    if damage == "gone":
        there.store.delete(path)
    else:
        there.store.put(
            path, {"flipped": b"a" * 99 + b"b", "short": b"a" * 50, "long": b"b" * 200}[damage]
        )
    own = shared(remote, said)
    assert own.pull(two, key_of()) is None
    assert len(said) == 1
    assert said[0].startswith("refused")
    assert list(two.folder("tmp").iterdir()) == []
    publish(two.root, 0, "a" * 100)  # built here instead
    assert own.push(two, key_of()) == "there"
    assert shared(remote).pull(Store(tmp_path / "three"), key_of()) == one.lookup(key_of()), (
        "what was damaged is whole again"
    )


def forged(change):
    """An entry with something wrong in it."""
    good = {
        "key": key_of(),
        "action": action(),
        "stage": "made",
        "step": "made:0",
        "files": [{"path": "f.txt", "size": 1, "sha256": "a" * 64}],
    }
    return good | change


def with_file(**change):
    return {"files": [{"path": "f.txt", "size": 1, "sha256": "a" * 64} | change]}


FORGERIES = {
    "another's": {"action": action(1)},
    "another key": {"key": "b" * 64},
    "no files": {"files": None},
    "not a list": {"files": "x"},
    "up": with_file(path="../../x"),
    "absolute": with_file(path="/etc/passwd"),
    "dots": with_file(path="a/./b"),
    "backslash": with_file(path="..\\x"),
    "control": with_file(path="a\nb"),
    "empty": with_file(path=""),
    "digest up": with_file(sha256="../" * 21 + "x"),
    "short digest": with_file(sha256="ab"),
    "upper": with_file(sha256="A" * 64),
    "negative": with_file(size=-1),
    "a float": with_file(size=1.5),
    "true": with_file(size=True),
    "huge": with_file(size=1 << 60),
    "more": with_file(mode=0o777),
    "twice": {"files": with_file()["files"] * 2},
    "not a file": {"files": ["f.txt"]},
    "both": {"files": [*with_file()["files"], *with_file(path="f.txt/x")["files"]]},
    "a failure of a machine": {"files": None, "failure": {"kind": "out_of_memory", "message": ""}},
    "a failure that is none": {"files": None, "failure": {"kind": 3}},
    "many": {"files": with_file()["files"] * 10_001},
    "step": {"step": 7},
    "time": {"wall_s": float("inf")},
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_entry_is_refused(tmp_path, name):
    raw = json.dumps(forged(FORGERIES[name])).encode()
    with pytest.raises(RemoteDataError):
        parse_shared_entry(raw, key_of())


@pytest.mark.parametrize(
    "raw", [b"", b"[", b"[]", b"null", b"[" * 100_000, b"\xff", b'{"key": 1e999}', b"1" * 5000]
)
def test_what_is_no_entry_is_refused(raw):
    with pytest.raises(RemoteDataError):
        parse_shared_entry(raw, key_of())


def test_an_entry_says_nothing_but_what_an_entry_has():
    raw = json.dumps(forged({"shared": "x", "made": "yesterday", "__class__": 1})).encode()
    assert set(parse_shared_entry(raw, key_of())) == {"key", "action", "stage", "step", "files"}


def test_a_forged_entry_reaches_nothing(remote, tmp_path):
    there, said, two = objects(remote), [], Store(tmp_path / "two")
    evil = json.dumps(forged(with_file(path="../../../evil"))).encode()
    there.put_entry(key_of(), evil)
    folder = f"ac/{key_of()[:2]}"
    for name in (
        "ac/zz/evil.json",
        f"ac/zz/{key_of()}.json",
        f"{folder}/{key_of()}",
        f"{folder}/x/{key_of()}.json",
    ):
        there.store.put(name, b"x")
    assert list(shared(remote).objects.list_keys()) == [key_of()]
    own = shared(remote, said)
    assert own.pull(two, key_of()) is None
    assert "leaves its folder" in said[0]
    assert not list(tmp_path.rglob("evil"))
    assert own.push(publish(two.root, 0, "mine"), key_of()) == "pushed", (
        "an entry that nobody can believe is replaced"
    )
    assert shared(remote).pull(Store(tmp_path / "three"), key_of()) == two.lookup(key_of())


def test_an_entry_of_many_megabytes_is_not_read(remote, tmp_path):
    objects(remote).put_entry(key_of(), b" " * (9 << 20))
    said = []
    assert shared(remote, said).pull(Store(tmp_path / "two"), key_of()) is None
    assert "too large for an entry" in said[0]


@pytest.mark.parametrize(
    "name", ["ac/../../evil.json", "ac//evil", "/ac/x", "ac/%2e%2e/x", "ac/ é~", "ac/" + "x" * 900]
)
def test_strange_names_in_a_bucket(s3, bucket, tmp_path, name):
    import boto3

    said, one = [], publish(tmp_path / "one", 0, "x")
    assert shared(bucket).push(one, key_of()) == "pushed"
    client = boto3.client("s3", endpoint_url=s3.url)
    client.put_object(Bucket=bucket.split("/")[2], Key=f"team/{name}", Body=b"x")
    own = shared(bucket, said)
    found = own.pull(Store(tmp_path / "two"), key_of())
    assert found == one.lookup(key_of()) or "going on without it" in said[0]
    if found:
        assert list(own.objects.list_keys()) == [key_of()]


def test_with_a_key_only_signed_entries_are_believed(bucket, tmp_path, monkeypatch):
    one, two, said = (
        publish(tmp_path / "one", 0, "plain"),
        publish(tmp_path / "two", 0, "signed"),
        [],
    )
    assert shared(bucket).push(one, key_of()) == "pushed"
    monkeypatch.setenv("SINTRA_STORE_KEY", SECRET)
    own = shared(bucket, said)
    assert own.pull(Store(tmp_path / "three"), key_of()) is None
    assert "HMAC" in said[0]
    assert own.push(two, key_of()) == "pushed", "an unsigned entry gives way to a signed one"
    assert shared(bucket).pull(Store(tmp_path / "three"), key_of()) == two.lookup(key_of())
    monkeypatch.setenv("SINTRA_STORE_KEY", SECRET[::-1])
    assert shared(bucket, said).pull(Store(tmp_path / "four"), key_of()) is None
    written = [
        objects(bucket).get_entry(key_of()),
        *(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()),
    ]
    assert not any(SECRET.encode() in text for text in written)
    monkeypatch.setenv("SINTRA_STORE_KEY", "short")
    with pytest.raises(UserError, match="fewer than 16 bytes"):
        shared(bucket)


def test_a_signature_holds_for_its_entry_alone():
    text = format_shared_entry(forged({}), SECRET.encode())
    assert parse_shared_entry(text, key_of(), SECRET.encode())["files"]
    other = json.loads(text) | with_file(sha256="b" * 64)
    with pytest.raises(RemoteDataError, match="HMAC"):
        parse_shared_entry(json.dumps(other).encode(), key_of(), SECRET.encode())


def race(cache, url, number, start, name):
    """One of two machines that have built the same step, each with other bytes."""
    store = publish(cache, number, f"text of {name}")
    mine = store.lookup(key_of(number)).digest
    start.wait()
    said = []
    result = shared(url, said).push(store, key_of(number))
    return result, mine, store.lookup(key_of(number)).digest, said


def racer(cache, url, rounds, start, out, name):
    out.put([race(cache, url, n, start, name) for n in range(rounds)])


@pytest.mark.parametrize("where", ["s3", "folder"])
def test_two_writers_race(request, where, tmp_path):
    """50 steps, each built by two machines with different bytes and pushed at once: one entry, and
    both machines have it.
    """
    url = request.getfixturevalue("bucket") if where == "s3" else f"file://{tmp_path}/shared"
    times, spawn = 50, multiprocessing.get_context("spawn")
    start, out = spawn.Barrier(2), spawn.Queue()
    both = [
        spawn.Process(target=racer, args=(tmp_path / name, url, times, start, out, name))
        for name in ("one", "two")
    ]
    for process in both:
        process.start()
    results = [out.get(timeout=120) for _ in both]
    for process in both:
        process.join()
    third = shared(url)
    for number, (one, two) in enumerate(zip(*results, strict=True)):
        assert sorted([one[0], two[0]]) == ["lost", "pushed"]
        winner = one if one[0] == "pushed" else two
        assert one[2] == two[2] == winner[1], "who lost has taken over the winner's"
        assert third.pull(Store(tmp_path / "three"), key_of(number)).digest == winner[1]
    assert [r[3] for each in results for r in each if r[3]] == []
    assert len(names(url, "ac")) == times
    assert [list(verify_blobs(Store(tmp_path / name))) for name in ("one", "two", "three")] == [
        [],
        [],
        [],
    ]


def test_a_server_that_stumbles_is_asked_again(s3, bucket, tmp_path):
    one, own = publish(tmp_path / "one", 0, "hello", 20_000_000), shared(bucket)
    own.objects  # noqa: B018
    s3.broken = 2
    assert own.push(one, key_of()) == "pushed"
    s3.broken = 2
    assert own.pull(Store(tmp_path / "two"), key_of()) == one.lookup(key_of())
    assert s3.broken == 0


def test_who_may_only_read_goes_on_reading(s3, bucket, tmp_path):
    one = publish(publish(tmp_path / "one", 0, "hello").root, 1, "more")
    assert shared(bucket).push(one, key_of(0)) == "pushed"
    s3.readonly, said = True, []
    try:
        own = shared(bucket, said)
        assert [own.push(one, key_of(1)), own.push(one, key_of(1))] == ["kept", "kept"]
        assert own.pull(Store(tmp_path / "two"), key_of(0)) == one.lookup(key_of(0))
    finally:
        s3.readonly = False
    assert len(said) == 1
    assert "going on without pushing" in said[0]


@pytest.mark.parametrize("why", ["nobody listens", "no such bucket", "no such folder"])
def test_a_store_that_cannot_be_used_is_said_once(bucket, tmp_path, monkeypatch, why):
    where = {
        "nobody listens": bucket,
        "no such bucket": "s3://nosuchbucket/x",
        "no such folder": f"file://{tmp_path}/nowhere",
    }
    if why == "nobody listens":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    said, store = [], publish(tmp_path / "one", 0, "x")
    own = shared(where[why], said, "readonly" if "folder" in why else "readwrite")
    assert own.pull(Store(tmp_path / "two"), key_of()) is None
    assert own.pull(Store(tmp_path / "two"), key_of(1)) is None
    assert own.push(store, key_of()) == "kept"
    assert len(said) == 1
    assert "going on without it" in said[0]
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("remote", "mode", "wrong"),
    [
        ("s4://b/x", "readwrite", "did you mean 's3'"),
        ("http://host/x", "readwrite", "known are"),
        ("s3://", "readwrite", "expected "),
        ("s3://key:secret@b/x", "readwrite", "credentials come from"),
        ("az://c/x?sig=1", "readwrite", "credentials come from"),
        ("s3://b/../x", "readwrite", "expected "),
        ("", "read", "did you mean 'readonly'"),
        ("x", "no", "store.mode='no'"),
    ],
)
def test_wrong_addresses(tmp_path, remote, mode, wrong):
    with pytest.raises(UserError, match=wrong):
        parse_address(tmp_path, remote, mode)


def test_addresses(tmp_path):
    assert parse_address(tmp_path, "", "readonly") is None
    assert parse_address(tmp_path, "x", "readonly") == Address(f"file://{tmp_path}/x", False)
    assert parse_address(tmp_path, "gs://b/x/", "readwrite") == Address("gs://b/x", True)
