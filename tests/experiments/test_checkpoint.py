"""Checkpoints: verified, strict, walked back, saved again, kept from NaN and from a full disk."""

import json
import shutil
from collections import namedtuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.harness import checkpoint, manifest
from experiments.harness.errors import CheckpointError, ExperimentError, Interrupted, NonFiniteError
from tests.experiments.test_training import SETTINGS, run


def values(step):
    return {"w": jnp.arange(12.0).reshape(3, 4) + step, "n": jnp.int32(step)}


def opened(folder, keep=3, name="hash", **how):
    return checkpoint.Checkpoints(folder, keep, name, **how)


@pytest.fixture
def saved(tmp_path):
    """A folder with steps 1, 2, 3."""
    manager = opened(tmp_path)
    for step in (1, 2, 3):
        manager.save(step, values(step))
        manager.finish(step, values(step))
    manager.close()
    return tmp_path


def restored(folder, like=None, **how):
    manager = opened(folder, **how)
    found = manager.restore(values(0) if like is None else like)
    manager.close()
    return found


def test_checkpoints_survive_donation_and_no_more_than_some_are_kept(tmp_path):
    manager = opened(tmp_path, 2)
    state = {"w": jnp.arange(100_000.0)}
    donate = jax.jit(lambda s: jax.tree.map(lambda a: a * 0 - 1, s), donate_argnums=0)
    for step in (1, 2, 3):
        manager.save(step, state)
        donate(state)  # overwrites the memory the background writer would still be reading
        state = {"w": jnp.arange(100_000.0)}
    manager.wait()
    assert manager.steps() == [3, 2]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"2", "3"}
    found, step = manager.restore(state)
    assert step == 3
    chex.assert_trees_all_equal(found, state)
    manager.close()


def damage(path, how):
    """Four kinds."""
    data = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
    elif how == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif how == "zero":
        path.write_bytes(bytes(len(data)) if any(data) else b"x")
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["flip", "truncate", "delete", "zero"])
def test_no_damaged_file_is_restored_and_an_older_step_is(saved, tmp_path_factory, how, capsys):
    names = sorted(
        path.relative_to(saved)
        for path in (saved / "checkpoints" / "3").rglob("*")
        if path.is_file() and (path.stat().st_size or how == "zero")
    )
    assert len(names) > 8
    for index, name in enumerate(names):
        folder = tmp_path_factory.mktemp("damaged") / str(index)
        shutil.copytree(saved, folder)
        damage(folder / name, how)
        found, step = restored(folder)
        assert step == 2, name
        chex.assert_trees_all_equal(found, values(2))
        assert (folder / "quarantine" / "3").is_dir()
        reason = (folder / "quarantine" / "3.txt").read_text()
        assert name.relative_to("checkpoints/3").as_posix() in reason
        assert reason.strip() in capsys.readouterr().err


def test_all_steps_damaged_leave_none(saved, capsys):
    for step in (1, 2, 3):
        (saved / "checkpoints" / str(step) / "_METADATA").unlink()
    assert restored(saved) is None
    assert "checkpoints: none is sound; the training begins anew" in capsys.readouterr().err
    assert {path.name for path in (saved / "quarantine").glob("?")} == {"1", "2", "3"}
    manager = opened(saved)
    manager.save(3, values(3))
    manager.finish(3, values(3))
    manager.close()
    (saved / "checkpoints" / "3" / "_METADATA").unlink()
    assert restored(saved) is None
    assert (saved / "quarantine" / "3-2").is_dir()


def test_a_step_that_was_not_completed_does_not_count(saved):
    (saved / "checkpoints" / "3" / manifest.NAME).unlink()
    (saved / "checkpoints" / "1" / manifest.NAME).unlink()  # a removal was cut off
    (saved / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    assert restored(saved)[1] == 2
    assert {path.name for path in (saved / "checkpoints").iterdir()} == {"2"}
    assert "never completed" in (saved / "quarantine" / "3.txt").read_text()


def test_readers_move_nothing(saved, capsys):
    (saved / "checkpoints" / "3" / "_METADATA").unlink()
    before = sorted(saved.rglob("*"))
    assert restored(saved, read_only=True)[1] == 2
    assert sorted(saved.rglob("*")) == before
    assert "_METADATA: missing; not taken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (
            {"w": jnp.zeros((4, 3)), "n": jnp.int32(0)},
            r"state\['w'\]: expected float32\[4,3\], got",
        ),
        (
            {"w": jnp.zeros((3, 4), jnp.bfloat16), "n": jnp.int32(0)},
            r"expected bfloat16\[3,4\], got",
        ),
        ({"w": jnp.zeros((3, 4)), "n": jnp.uint32(0)}, r"state\['n'\]: expected uint32"),
        ({"w": jnp.zeros((3, 4))}, r"state\['n'\]: expected no such array, got int32\[\]"),
        ({**values(0), "more": jnp.zeros(2)}, r"state\['more'\]: .* got no such array"),
        (namedtuple("State", "w n")(**values(0)), r"state.n: expected int32"),
    ],
)
def test_other_arrays_are_refused_by_name(saved, like, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        restored(saved, like)
    assert caught.value.path == saved / "checkpoints" / "3"
    assert not (saved / "quarantine").exists()


def test_another_configuration_is_refused(saved):
    with pytest.raises(CheckpointError, match="expected configuration other, got hash"):
        restored(saved, name="other")


def test_a_forged_manifest_reaches_no_other_file(saved):
    path = saved / "checkpoints" / "3" / manifest.NAME
    for name in ("/dev/zero", "../2/_METADATA", "link"):
        (saved / "checkpoints" / "3" / "link").unlink(missing_ok=True)
        (saved / "checkpoints" / "3" / "link").symlink_to("/dev/zero")
        data = json.loads(path.read_text())
        data.pop("digest")
        data["files"][name] = {"bytes": 0, "sha256": ["0" * 64]}
        path.write_bytes(manifest._encoded(data))
        with pytest.raises(manifest.Damaged, match="expected a file of this folder"):
            manifest.check(path.parent)


def test_folders_that_lie_elsewhere_are_refused(saved, tmp_path_factory):
    """The files are whole, but whoever owns the other folder can change them later."""
    step, elsewhere = saved / "checkpoints" / "3", tmp_path_factory.mktemp("elsewhere") / "d"
    inner = next(path for path in step.iterdir() if path.is_dir())
    manifest.check(step)
    shutil.move(inner, elsewhere)
    inner.symlink_to(elsewhere)
    with pytest.raises(manifest.Damaged, match="expected a file of this folder"):
        manifest.check(step)


@pytest.mark.parametrize("files", [1, [], {"a": 1}, {"a": {}}, {"a\0": {"bytes": 1, "sha256": []}}])
def test_what_lists_no_files_is_damaged(tmp_path, files):
    (tmp_path / "a").write_text("b")
    (tmp_path / manifest.NAME).write_bytes(manifest._encoded({"files": files}))
    with pytest.raises(manifest.Damaged):
        manifest.check(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"digest": 1}', "[" * 10**5, '{"files": {}', "\xff"]
)
def test_what_is_no_manifest_is_damaged(tmp_path, text):
    (tmp_path / manifest.NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(manifest.Damaged):
        manifest.check(tmp_path)


def test_storage_that_cannot_be_read_is_no_damage(saved, monkeypatch):
    def check(folder):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(manifest, "check", check)
    with pytest.raises(CheckpointError, match=r"cannot be read, OSError: .* Input/output error"):
        restored(saved)
    assert not (saved / "quarantine").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_never_saved(saved, bad):
    manager = opened(saved)
    with pytest.raises(NonFiniteError, match=r"state\['w'\]; newest good one: step 3"):
        manager.save(4, {**values(4), "w": values(4)["w"].at[1, 2].set(bad)})
    manager.close()
    assert manager.steps() == [3, 2, 1]


def test_a_save_without_room_is_not_begun(saved, monkeypatch, capsys):
    usage = shutil.disk_usage(saved)._replace(free=1000)
    monkeypatch.setattr(checkpoint, "PAUSE", 0.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    manager = opened(saved)
    with pytest.raises(CheckpointError, match=r"free space, got 1000; tried 3 .* one: step 3"):
        manager.save(4, values(4))
    assert capsys.readouterr().err.count("trying again") == 2
    monkeypatch.undo()
    manager.save(4, values(4))
    manager.finish(4, values(4))
    assert manager.steps() == [4, 3, 2]
    manager.close()


class Failing:
    """A writer of checkpoints that fails some times before it works."""

    def __init__(self, monkeypatch, times):
        self.left, self.asked = times, 0
        works = ocp.AsyncCheckpointer.save

        def save(manager, *arguments, **options):
            self.asked += 1
            if self.left > 0:
                self.left -= 1
                raise OSError(28, "No space left on device")
            return works(manager, *arguments, **options)

        monkeypatch.setattr(ocp.AsyncCheckpointer, "save", save)
        monkeypatch.setattr(checkpoint, "PAUSE", 0.0)


def test_a_failed_save_is_tried_again(tmp_path, monkeypatch, capsys):
    failing = Failing(monkeypatch, 2)
    state = run(tmp_path / "run")
    assert failing.left == 0 and failing.asked == 2 + SETTINGS.steps // SETTINGS.checkpoint_every
    assert capsys.readouterr().err.count("could not be saved, OSError: [Errno 28]") == 2
    chex.assert_trees_all_equal(state.params, run(tmp_path / "other").params)
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {"6", "9"}


def test_a_save_that_keeps_failing_ends_the_run_with_the_newest_good_one(tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        run(tmp_path / "run", stop=4)
    Failing(monkeypatch, 10**6)
    with pytest.raises(ExperimentError, match=r"checkpoint .*/6: .* tried 3 times, .* one: step 5"):
        run(tmp_path / "run")
    monkeypatch.undo()
    resumed = run(tmp_path / "run")
    chex.assert_trees_all_equal(resumed.params, run(tmp_path / "whole").params)


@pytest.mark.parametrize("place", ["writer", "manifest"])
def test_a_save_that_fails_in_the_background_is_noticed(tmp_path, monkeypatch, capsys, place):
    """The writer's thread fails after the training has gone on."""
    monkeypatch.setattr(checkpoint, "PAUSE", 0.0)
    broken = [True]
    works = {
        "writer": ocp.AsyncCheckpointer.wait_until_finished,
        "manifest": manifest.write,
    }[place]

    def fails(*arguments, **options):
        if broken:
            broken.clear()
            raise OSError(5, "Input/output error")
        return works(*arguments, **options)

    if place == "writer":
        monkeypatch.setattr(ocp.AsyncCheckpointer, "wait_until_finished", fails)
    else:
        monkeypatch.setattr(manifest, "write", fails)
    state = run(tmp_path / "run")
    assert "could not be saved, OSError: [Errno 5]" in capsys.readouterr().err
    chex.assert_trees_all_equal(state.params, run(tmp_path / "other").params)


def test_a_run_goes_on_behind_a_damaged_checkpoint(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "run", stop=7)
    damage(tmp_path / "run" / "checkpoints" / "8" / manifest.NAME, "flip")
    chex.assert_trees_all_equal(run(tmp_path / "run"), whole)
    rows = [
        [json.loads(line)["step"] for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("run", "whole")
    ]
    assert rows[0] == rows[1]
