"""Where compiled programs are kept."""

import pathlib

import jax
import pytest

from blt_jax.training.programs import keep_programs


@pytest.fixture
def no_place():
    """As in a new process, in which nobody has chosen a place yet."""
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_programs_are_kept_in_the_cache_folder(no_place, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    keep_programs()
    kept = jax.config.values["jax_compilation_cache_dir"]
    assert kept == str(tmp_path / "cache" / "blt_jax")
    # What has been chosen stays.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    keep_programs()
    assert jax.config.values["jax_compilation_cache_dir"] == kept


def test_a_place_that_cannot_be_written_is_left_out(no_place, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_programs()
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_an_empty_name_is_none_and_no_home_is_no_error(no_place, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_programs()
    kept = jax.config.values["jax_compilation_cache_dir"]
    assert kept == str(tmp_path / ".cache" / "blt_jax")

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", nobody)
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    keep_programs()
    kept = jax.config.values["jax_compilation_cache_dir"]
    assert kept == str(tmp_path / "cache" / "blt_jax")
