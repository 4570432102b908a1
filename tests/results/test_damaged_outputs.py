"""A damaged model, in outputs/ or in the cache, is delivered again, and built again if need be."""

import os
import shutil

from conftest import QUICK, Project

from sintra.store.files import hash_file
from sintra.store.sound_files import SoundFiles


def rot(path):
    """Change one byte; size and time of modification stay."""
    stat = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as handle:
        handle.seek(stat.st_size // 2)
        byte = handle.read(1)
        handle.seek(stat.st_size // 2)
        handle.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_damaged_model_is_delivered_again(studied, tiny, tmp_path):
    """First as a copy, whose blob is sound; then as a link, where the blob is damaged with it."""
    shutil.copytree(studied.root, tmp_path / "project", symlinks=True)
    project = Project(tmp_path / "project")
    model = project.root / "outputs" / "latest" / "model.gguf"
    args, digest = ("optimize", "hardware=jetson_nano", f"model={tiny}", *QUICK), hash_file(model)
    rot(model)
    done = project.doit(*args)
    assert (done.returncode, project.built(done), hash_file(model)) == (0, [], digest), done.stderr

    assert model.samefile(project.root / "cache" / "cas" / digest[:2] / digest)
    rot(model)
    done = project.doit(*args)
    assert (done.returncode, len(project.built(done))) == (0, 1), done.stderr
    assert f"damaged {project.built(done)[0]}: its file on disk is not what was" in done.stderr
    assert hash_file(model) == digest
    assert project.doit("verify", "--full").returncode == 0


def test_a_file_is_read_once_for_each_mark(tmp_path):
    file, memory = tmp_path / "file", tmp_path / "meta" / "sound.json"
    file.write_text("good")
    digest, sound = hash_file(file), SoundFiles(memory)
    assert sound.is_sound(file, digest)
    sound.save()
    assert not SoundFiles(memory).is_sound(file, "0" * 64)
    rot(file)
    assert not SoundFiles(memory).is_sound(file, digest), "written to, whatever the times say"
    SoundFiles(memory).remember(file, digest)
    remembered = SoundFiles(memory)
    remembered.remember(file, digest)
    assert remembered.is_sound(file, digest), "with this mark it isn't read again"
    for text in ("[]", "{", '{"x": 3}'):
        memory.write_text(text)
        assert not SoundFiles(memory).is_sound(file, digest)
    assert not SoundFiles(memory).is_sound(tmp_path / "nowhere", digest)
