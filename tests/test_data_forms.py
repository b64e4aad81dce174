"""Files that are no JSON Lines are named for what they are, before anything starts."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from data import jsonl
from data.catalog import SOURCES
from data.edgewise import check_folder
from data.forms import check_form
from data.prepare import prepare
from data.reading import check_unchanged
from data.schema import DataError
from data.settings import DataSettings
from data.tally import Tally, check_bad_rows

MESSAGES = [{"role": "user", "text": "Dim the lights"}, {"role": "assistant", "text": "Dimmed."}]
ROWS = [{"persona_id": "é", "session_id": n, "messages": MESSAGES} for n in range(3)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def table() -> pa.Table:
    return pa.Table.from_pylist(ROWS)


def written(write) -> bytes:
    sink = io.BytesIO()
    write(sink)
    return sink.getvalue()


def zipped(name: str) -> bytes:
    def write(sink):
        with zipfile.ZipFile(sink, "w") as file:
            file.writestr(name, LINES)

    return written(write)


def arrow_stream(sink):
    with pa.ipc.new_stream(sink, table().schema) as stream:
        stream.write_table(table())


FORMS = {
    "gzip": (gzip.compress(LINES.encode()), "is compressed with gzip"),
    "bzip2": (bz2.compress(LINES.encode()), "is compressed with bzip2"),
    "xz": (lzma.compress(LINES.encode()), "is compressed with xz"),
    "zstd": (pa.compress(LINES.encode(), "zstd", asbytes=True), "is compressed with Zstandard"),
    "zip": (zipped("x.jsonl"), "is a zip archive"),
    "xlsx": (zipped("xl/workbook.xml"), "is an Excel workbook"),
    "parquet": (written(lambda sink: pq.write_table(table(), sink)), "is a Parquet table"),
    "feather": (written(lambda sink: feather.write_feather(table(), sink)), "is an Arrow"),
    "arrow": (written(arrow_stream), "is an Arrow stream"),
    "pickle": (written(lambda sink: pd.DataFrame(ROWS).to_pickle(sink)), "is a Python pickle"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\n", "is a PDF"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid\n", "is a pointer of Git LFS"),
    "utf16": (LINES.encode("utf-16"), "is UTF-16,"),
    "utf16le": (LINES.encode("utf-16-le"), "is UTF-16LE"),
    "utf16be": (LINES.encode("utf-16-be"), "is UTF-16BE"),
    "utf32": (LINES.encode("utf-32"), "is UTF-32"),
    "nul": (b"\x01\x00\x02\x03" * 100, "is no text"),
    "array": (json.dumps(ROWS).encode(), "is a JSON array"),
    "indented array": (b"\n" + json.dumps(ROWS, indent=1).encode(), "is a JSON array"),
    "array of lines": (b"[" + LINES.encode().replace(b"\n", b",\n") + b"{}]", "is a JSON array"),
    "object": (json.dumps({"rows": ROWS}, indent=2).encode(), "has JSON over several lines"),
    "objects": (json.dumps(ROWS[0], indent=2).encode() * 9000, "has JSON over several lines"),
    "csv": (b"persona_id,session_id,text\na,1,hello\n", "looks like CSV ('persona_id,sess"),
    "tsv": (b"\xef\xbb\xbfpersona_id\ttext\na\thello\n", "looks like TSV"),
    "html": (b"<!DOCTYPE html>\n<html></html>\n", "is a page or XML"),
    "text": (b"# My chats\nhello\n", "is no JSON (it begins with '# My chats')"),
    "cr": (LINES.replace("\n", "\r").encode(), "ends its lines with CR alone"),
    "empty": (b"", "is empty"),
    "blank": (b"\xef\xbb\xbf\r\n \n", "is empty"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_named_for_what_it_is(form, tmp_path):
    content, told = FORMS[form]
    path = tmp_path / "chats of mine.jsonl"
    path.write_bytes(content)
    with pytest.raises(
        DataError, match="but one session a line, as a JSON object, is exp"
    ) as caught:
        SOURCES["jsonl"].fetch(str(path), tmp_path, DataSettings())
    said = str(caught.value)
    assert said.startswith(f"{path} {told}")
    assert "skip-bad-rows" not in said
    assert "{" not in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        LINES.encode(),
        b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode(),
        b"\n\n" + LINES.encode().rstrip(),
        b"# a comment\n" + LINES.encode(),
        b"[]\n" + LINES.encode(),
        b'{"persona_id": "a", "mess\n' + LINES.encode(),
        b'{"persona_id": "a",\n' + LINES.encode(),
        json.dumps({"persona_id": "a", "text": "x" * 100_000}).encode() + b"\n" + LINES.encode(),
        b'"a text"\n5\nnull\n',
    ],
)
def test_json_lines_pass_and_so_do_single_bad_rows(content, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    check_form(path)


def test_a_byte_order_mark_and_crlf_change_nothing(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(LINES.encode())
    plain = jsonl.scan(path)
    before = jsonl.read_user(plain.users[0], plain.files)
    path.write_bytes(b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode().rstrip())
    marked = jsonl.scan(path)
    assert (marked.bad_rows, marked.counts) == ((), {})
    assert jsonl.read_user(marked.users[0], marked.files).sessions == before.sessions


def test_an_edgewise_folder_is_looked_at_too(tmp_path):
    for name in ("characters", "routines", "sessions"):
        (tmp_path / f"{name}.jsonl").write_bytes(gzip.compress(b"{}\n"))
    with pytest.raises(DataError, match=r"characters\.jsonl is compressed with gzip, but one user"):
        check_folder(tmp_path)
    for name in ("characters", "routines", "sessions"):
        (tmp_path / f"{name}.jsonl").unlink()
    (tmp_path / "chats.jsonl").write_text(LINES)
    with pytest.raises(DataError, match=r"to read chats\.jsonl itself: --data .*chats\.jsonl"):
        check_folder(tmp_path)


def test_skipping_is_not_offered_where_all_rows_are_bad(tmp_path):
    with pytest.raises(DataError, match="not one of 2 rows can be used") as caught:
        check_bad_rows(["f, line 1: x", "f, line 2: x"], allowed=0, all_bad=True)
    assert "skip-bad-rows" not in str(caught.value)
    # The driver waits for a good row before it offers to leave bad ones out.
    tally = Tally(settings=DataSettings())
    bad = {"counts": {}, "bad_rows": [("f", 1, "x")], "raw_sessions": 0}
    nothing = {"place": None, "message_hashes": None, "message_times": None}
    tally.add("a", bad | {"bad_rows": [("f", 1, "x")]}, **nothing)
    with pytest.raises(DataError, match="not one of 1 rows"):
        tally.check_bad_rows()
    with pytest.raises(DataError, match="--skip-bad-rows 1"):
        tally.add("b", {"counts": {}, "bad_rows": [], "raw_sessions": 2}, **nothing)
    # Rows that are no JSON beside rows that cannot be used either; no Ray runs here.
    path = tmp_path / "x.jsonl"
    path.write_text('{"persona_id": "a", "session_id": 1, "messages": 5}\nnull\n')
    with pytest.raises(DataError, match="not one of 1 rows can be used"):
        prepare(str(path), workspace=tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_file_that_changes_meanwhile_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    path.write_text(LINES)
    scan = jsonl.scan(path)
    check_unchanged(scan)
    with path.open("a") as file:
        file.write(LINES)
    with pytest.raises(DataError, match="was changed while it was read"):
        check_unchanged(scan)
    # It grows between the two passes of a scan.
    real = jsonl.scan_lines

    def growing(path: Path):
        found = real(path)
        with path.open("a") as file:
            file.write(LINES)
        return found

    monkeypatch.setattr(jsonl, "scan_lines", growing)
    with pytest.raises(DataError, match="was changed while it was read"):
        jsonl.scan(path)
