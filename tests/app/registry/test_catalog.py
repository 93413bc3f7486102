import re

import pytest

from app.errors import ModelNotFound
from app.registry import sources
from app.registry.catalog import Catalog, Entry, as_schema, fit
from app.schema.manage import Gpu

CATALOG = Catalog.load()
GB = 10**9


@pytest.mark.parametrize("entry", CATALOG.entries(), ids=lambda entry: entry.name)
def test_every_entry_can_be_asked_for(entry):
    request = sources.parse(entry.name, CATALOG)
    assert len(request.sources) == len(entry.sources)
    assert entry.licence
    assert entry.description.endswith(".")
    for source in entry.sources:
        assert sources.parse(source.ref, CATALOG).sources[0].ref == source.ref
        digests = [source.sha256, *(file.sha256 for file in source.files)]
        assert all(digest is None or re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
        if source.files:
            assert (source.files[0].sha256, source.files[0].size_bytes) == (source.sha256, source.size_bytes)
            assert all("==" in piece.package for file in source.files for piece in file.pieces)


def test_the_promised_models_are_there():
    assert {"digits", "gemma-3-270m", "magika", "all-minilm-l6-v2"} <= {entry.name for entry in CATALOG.entries()}
    assert CATALOG.find("gemma-3-270m").size_bytes == 253_113_024


def test_a_name_that_is_not_there():
    with pytest.raises(ModelNotFound) as caught:
        CATALOG.find("magica")
    assert "magika" in caught.value.hint


def sized(size_bytes: int | None) -> Entry:
    return Entry(
        name="m", title="M", description="", task="", format="gguf", licence="", sources=[], size_bytes=size_bytes
    )


def gpu(total: int, used: int = 0) -> Gpu:
    return Gpu(index=0, uuid="x", name="RTX", memory_total_bytes=total, memory_used_bytes=used)


@pytest.mark.parametrize(
    ("size", "total", "available", "gpus", "expected"),
    [
        (5 * GB, 24 * GB, 16.3 * GB, [], ("fits", "fits, 10.1 GB to spare")),
        (36.5 * GB, 24 * GB, 20 * GB, [], ("too_big", "needs about 44 GB, this machine has 24 GB")),
        (5 * GB, 16 * GB, 4 * GB, [], ("tight", "needs about 6.2 GB, 4.0 GB are free now")),
        (5 * GB, 4 * GB, 2 * GB, [gpu(24 * GB, 2 * GB)], ("fits", "fits on RTX, 15.8 GB to spare")),
        (30 * GB, 16 * GB, 8 * GB, [gpu(24 * GB)], ("too_big", "needs about 36 GB, this machine has 24 GB")),
        (5 * GB, 32 * GB, 30 * GB, [gpu(24 * GB, 23 * GB)], ("fits", "fits, 24 GB to spare")),
        (None, 24 * GB, 16 * GB, [], ("unknown", "its size is not known yet")),
    ],
)
def test_fit(size, total, available, gpus, expected):
    assert fit(sized(int(size) if size else None), int(total), int(available), gpus) == expected


def test_as_it_travels():
    entry = as_schema(CATALOG.find("gemma-3-270m"), 24 * GB, 16 * GB, here=True, job="j")
    assert (entry.here, entry.job, entry.fit) == (True, "j", "fits")
    assert [ref.partition(":")[0] for ref in entry.sources] == ["hf", "pypi"]
    assert entry.sha256.startswith("a5fd3b62")
    assert as_schema(CATALOG.find("digits"), GB, GB).sources == ["digits"]
    assert as_schema(CATALOG.find("all-minilm-l6-v2"), GB, GB).sha256 is None
