"""``export --into``: what is no earlier export is never deleted, and nothing is half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.exit_codes import InfrastructureError, InputError
from orchestrator.export_target import MARKER, OWN_FOLDERS, check_target, put_in_place
from orchestrator.workspace import Workspace


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace in a home folder, with the shell in a third folder."""
    for name in ("home/deep/study/results", "here"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "home/deep/study/results/kept.txt").write_text("kept")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return Workspace(tmp_path / "home" / "deep" / "study")


def everything(root: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


def export(folder: Path, *names: str) -> None:
    with put_in_place(folder) as made:
        for name in names:
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text(name)


@pytest.mark.parametrize(
    ("into", "told"),
    [
        ("~/deep/study", "is the workspace"),
        ("~/deep", "holds the workspace"),
        ("~/deep/study/../study/", "is the workspace"),
        ("~", "is your home folder"),
        ("/", "is the root folder"),
        (".", "is the current folder"),
        ("..", "holds your home folder"),
        ("../here/..", "holds your home folder"),
        ("link", "is the workspace"),
        *((f"~/deep/study/{name}", "the workspace's own files") for name in OWN_FOLDERS),
        ("~/deep/study/models/lora_all", "the workspace's own files"),
        ("~/deep/study/.hidden", "the workspace's own files"),
    ],
)
def test_places_that_hold_other_things_are_refused_even_with_overwrite(
    into: str, told: str, work: Workspace, tmp_path: Path
) -> None:
    Path("link").symlink_to(work.root)
    before = everything(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(InputError) as raised:
            check_target(Path(into), work, overwrite=overwrite)
        assert told in str(raised.value)
    assert everything(tmp_path) == before


def test_a_folder_of_a_person_is_not_replaced(work: Workspace, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "deep").mkdir(parents=True)
    (mine / "deep" / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match=r"what no export wrote \(deep/thesis.txt\)"):
        check_target(mine, work, overwrite=True)
    with pytest.raises(InputError, match="is not empty"):
        check_target(mine, work, overwrite=False)
    with pytest.raises(InputError, match=r"is a file \(.*thesis.txt is one\); a folder is needed"):
        check_target(mine / "deep" / "thesis.txt" / "x", work, overwrite=True)


def test_an_earlier_export_is_replaced_unless_something_was_put_into_it(
    work: Workspace, tmp_path: Path
) -> None:
    into = check_target(tmp_path / "new" / "adapters", work, overwrite=False)
    export(into, "lora/README.md", "users.csv")
    assert check_target(into, work, overwrite=True) == into
    export(into, "prefix/README.md")
    assert set(everything(into)) == {"prefix", "prefix/README.md", MARKER}
    (into / "prefix" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"what no export wrote \(prefix/notes.txt\)"):
        check_target(into, work, overwrite=True)
    (into / "prefix" / "notes.txt").unlink()
    (into / MARKER).write_text("{")
    with pytest.raises(InputError, match="what no export wrote"):
        check_target(into, work, overwrite=True)


def test_a_link_to_an_export_is_followed_and_stays(work: Workspace, tmp_path: Path) -> None:
    export(tmp_path / "real", "a.txt")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    export(check_target(tmp_path / "link", work, overwrite=True), "b.txt")
    assert (tmp_path / "link").is_symlink()
    assert set(everything(tmp_path / "real")) == {"b.txt", MARKER}


def test_an_export_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        with put_in_place(folder) as made:
            (made / "half.txt").write_text("half")
            raise InputError("none of them")

    export(tmp_path / "old", "a.txt")
    before = everything(tmp_path)
    for name in ("old", "new", "deep/er/new"):
        with pytest.raises(InputError, match="none of them"):
            broken(tmp_path / name)
    assert everything(tmp_path) == before


def test_a_place_that_cannot_be_written_is_told() -> None:
    with pytest.raises(InfrastructureError, match="--into /proc/nowhere/adapters cannot be wri"):
        export(Path("/proc/nowhere/adapters"), "a.txt")
