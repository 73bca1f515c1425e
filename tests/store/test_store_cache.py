"""The results that other runs may take over: one file each, private, whole or not there."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import replace

import pytest

from fractale.errors import StoreError
from fractale.store.cache import MOST_BYTES, CacheStore, Entry


@pytest.fixture
def store(tmp_path) -> CacheStore:
    return CacheStore(tmp_path)


def entry(store: CacheStore, value=1, group="g") -> Entry:
    parts = {"argument `x`": store.hash_of(value)}
    return Entry(
        key=store.key_of(parts), group=group, run="r", plan="p", step="s", at=1.0, parts=parts,
        result={"outputs": {"v": value}},
    )  # fmt: skip


def test_an_entry_is_found_by_its_key_alone(store, tmp_path):
    one, two = entry(store), entry(store, 2)
    assert store.keep(one)
    assert CacheStore(tmp_path).find("g", one.key) == one
    assert store.find("g", two.key) is None
    assert store.find("other", one.key) is None


def test_everything_is_private_and_hashes_tell_nothing_elsewhere(store, tmp_path):
    store.keep(entry(store))
    for path in (tmp_path / "cache").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    other = CacheStore(tmp_path / "elsewhere")
    assert other.hash_of(1) != store.hash_of(1)
    assert CacheStore(tmp_path).hash_of(1) == store.hash_of(1)


@pytest.mark.parametrize("harm", ["cut", "changed", "moved", "foreign", "link", "version", "empty"])
def test_a_damaged_or_foreign_entry_is_as_good_as_none(store, tmp_path, harm):
    kept = entry(store)
    store.keep(kept)
    (path,) = (tmp_path / "cache" / "g").glob("*.json")
    text = path.read_text()
    if harm == "cut":
        path.write_text(text[: len(text) // 2])
    if harm == "changed":
        path.write_text(text.replace('"v": 1', '"v": 2'))
    if harm == "moved":
        path.rename(path.with_name(f"{entry(store, 2).key}.json"))
    if harm == "foreign":
        path.chmod(0o666)
    if harm == "link":
        path.rename(tmp_path / "there")
        path.symlink_to(tmp_path / "there")
    if harm == "version":
        path.write_text(text.replace('"version": 1', '"version": 99'))
    if harm == "empty":
        path.write_text("")
    assert store.find("g", kept.key) is None
    assert store.find("g", entry(store, 2).key) is None
    assert list(store.near("g")) == []


def test_a_secret_that_others_could_have_written_is_an_error(store, tmp_path):
    store.hash_of(1)
    (tmp_path / "cache" / "secret").chmod(0o666)
    with pytest.raises(StoreError, match="every user may write to it"):
        CacheStore(tmp_path).hash_of(1)


def test_too_large_a_result_is_not_kept(store):
    large = replace(entry(store), result={"text": "x" * MOST_BYTES})
    assert not store.keep(large)
    assert store.size().entries == 0


def test_old_results_are_removed_and_counted(store, tmp_path):
    for value in range(4):
        store.keep(entry(store, value))
    files = sorted((tmp_path / "cache" / "g").glob("*.json"))
    for file in files[:3]:
        os.utime(file, (time.time() - 1000,) * 2)
    assert (store.size().entries, store.size(older=500).entries) == (4, 3)
    removed = store.prune(older=500)
    assert (removed.entries, removed.bytes > 0, removed.oldest > 900) == (3, True, True)
    assert store.size().entries == 1
    assert store.prune().entries == 1
    assert store.size() == CacheStore(tmp_path / "none").size()


def test_the_lock_of_a_key_is_one_process_long(store, tmp_path):
    first, second = store.lock("k"), store.lock("k")
    assert first.try_acquire()
    assert not second.try_acquire()
    assert store.lock("other").try_acquire()
    first.release()
    assert second.try_acquire()
    second.release()
    assert not (tmp_path / "cache" / "locks" / "k").exists()
