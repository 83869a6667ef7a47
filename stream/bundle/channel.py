"""Which bundle is active: a folder itself, or a channel, a small JSON file that points to one.

    models/live.json   {"active": "ranker-v2", "previous": "ranker-v1"}

Paths are relative to the channel's own folder where they lie below it, so that models/ can be moved as a whole.
Pure file logic: workers poll, and a person (or a training job) activates and rolls back; nothing else is shared between
them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from stream.bundle.errors import BundleError
from stream.bundle.load import load_bundle, read_files, read_manifest
from stream.bundle.manifest import DATA_FILES, MANIFEST

__all__ = ["BundleWatcher", "Channel", "activate", "read_channel", "resolve", "rollback"]

MAX_CHANNEL_BYTES: Final = 64 << 10


class Channel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a channel file holds: the bundle that serves, and the one that served before."""

    active: str
    previous: str | None = None


def read_channel(file: Path) -> Channel:
    """Read a channel file.

    Raises:
        BundleError: it is missing, too large or not a channel.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_CHANNEL_BYTES + 1)
    except OSError as error:
        raise BundleError(file, f"there is no bundle folder or channel file: {error.strerror}") from error
    if len(content) > MAX_CHANNEL_BYTES:
        raise BundleError(
            file, "it is too large for a channel", expected=f"at most {MAX_CHANNEL_BYTES} bytes", found="more"
        )
    try:
        return msgspec.json.decode(content, type=Channel)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(file, f"it is not a channel: {error}") from error


def resolve(path: Path | str) -> Path:
    """The bundle folder that `path` means: itself if it is a folder, otherwise what the channel points to.

    Raises:
        BundleError: there is neither, or the channel cannot be read. The folder's content is not looked at.
    """
    path = Path(path)
    return path if path.is_dir() else path.parent / read_channel(path).active


def activate(channel: Path | str, bundle: Path | str) -> Channel:
    """Make `bundle` the active one of `channel`, which is created if need be; the one before becomes its previous.

    The bundle is loaded and verified first. Readers see the old or the new content, never half of it. Activating what
    is active already changes nothing.

    Raises:
        BundleError: the bundle is refused, or `channel` exists and is not a channel; the channel is then unchanged.
    """
    channel, bundle = Path(channel), Path(bundle)
    before = read_channel(channel) if os.path.lexists(channel) else None
    load_bundle(bundle)
    pointer = _pointer(channel, bundle)
    if before is not None and before.active == pointer:
        return before
    after = Channel(pointer, None if before is None else before.active)
    _write(channel, after)
    return after


def rollback(channel: Path | str) -> Channel:
    """Exchange the active and the previous bundle of `channel`, after verifying the one that becomes active.

    Raises:
        BundleError: there is no previous bundle, or it is refused; the channel is then unchanged.
    """
    channel = Path(channel)
    before = read_channel(channel)
    if before.previous is None:
        raise BundleError(channel, "there is no previous bundle to roll back to")
    load_bundle(channel.parent / before.previous)
    after = Channel(before.previous, before.active)
    _write(channel, after)
    return after


def _pointer(channel: Path, bundle: Path) -> str:
    """How the channel names the bundle: relative below its own folder, absolute elsewhere."""
    home, target = channel.parent.resolve(), bundle.resolve()
    return str(target.relative_to(home) if target.is_relative_to(home) else target)


def _write(channel: Path, content: Channel) -> None:
    """Replace the channel file in one step that survives a crash: written aside, flushed to disk, renamed."""
    aside = channel.with_name(f".{channel.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as opened:
            opened.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
            opened.flush()
            os.fsync(opened.fileno())
        aside.replace(channel)
    except OSError as error:
        raise BundleError(channel, f"it cannot be written: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)


class BundleWatcher:
    """Tells when what a path resolves to has changed into another whole bundle.

    A poll costs a few `stat` calls as long as nothing changes. When something did, the files are hashed: a folder that
    is half written, or a channel that points nowhere yet, is not reported; it is looked at when it changes again.
    Make the watcher before loading the bundle: a change in between is then reported, not missed.

    Args:
        path: a bundle folder or a channel. What it resolves to now counts as known, if it is a whole bundle.

    Attributes:
        problem: why the last change that was seen is not reported; None when there is nothing to complain about.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._stamp: tuple[object, ...] | None = None
        self._known: str | None = None
        self.problem: BundleError | None = None
        self.poll()

    def poll(self) -> Path | None:
        """The folder of the bundle that is there now, if it is not the one reported last; otherwise None.

        Each change is reported once. The files' hashes agree with the manifest; `load_bundle` checks the rest.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return None
        # Taken before reading: whoever writes while we read changes the stamp, and so gets a second look.
        self._stamp = stamp
        try:
            folder = resolve(self._path)
            manifest = read_manifest(folder)
            if manifest.digest() != self._known:
                read_files(folder, manifest)
        except BundleError as error:
            self.problem = error
            return None
        self.problem = None
        if manifest.digest() == self._known:
            return None
        self._known = manifest.digest()
        return folder

    def _look(self) -> tuple[object, ...]:
        """What changes when a bundle does: the folder, and each file's identity, size and time of change."""
        try:
            folder = resolve(self._path)
        except BundleError as error:
            return (str(error), _stat(self._path))
        return (folder, *(_stat(folder / name) for name in (MANIFEST, *DATA_FILES)))


def _stat(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.lstat()
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
