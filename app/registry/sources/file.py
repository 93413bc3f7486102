"""``file:PATH``: a file of this machine, copied; the original stays as it is."""

from pathlib import Path
from urllib.request import url2pathname

from app.errors import InvalidInput
from app.registry.sources.plan import Output, Part, Plan, Remote, Wanted

#: Where ONNX keeps weights beyond 2 GB, beside ``model.onnx``.
_BESIDE = ("{name}_data", "{name}.data")


def parse(ref: str) -> Path:
    """The path of ``file:PATH`` or ``file:///PATH``. Raises `InvalidInput` unless it is absolute."""
    text = ref.removeprefix("file:")
    path = Path(url2pathname(text.removeprefix("//")) if text.startswith("///") else text).expanduser()
    if not path.is_absolute():
        raise InvalidInput(
            f"{text!r} is not a whole path",
            hint="give it from the root or from ~; the daemon has another folder",
            field="ref",
        )
    return path


def plan(wanted: Wanted) -> Plan:
    """Raises `InvalidInput` if there is no such file."""
    path = parse(wanted.ref)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InvalidInput(f"{path} {what}", hint="name a .gguf or .onnx file", field="ref")
    beside = [path.with_name(pattern.format(name=path.name)) for pattern in _BESIDE]
    files = [path, *(other for other in beside if other.is_file())]
    return Plan(
        source=wanted.ref,
        remotes=[Remote(file.as_uri(), file.name, file.stat().st_size) for file in files],
        outputs=[
            Output(file.name, [Part(index)], sha256=wanted.sha256 if index == 0 else None)
            for index, file in enumerate(files)
        ],
    )
