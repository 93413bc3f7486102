"""Makes `app/api/grpc/inference_pb2.py` and its stub of `inference.proto`: `grpc_messages.py [FOLDER]`.

The generated module registers its messages in a descriptor pool of its own instead of the process's: the names are
those of Triton's, so that in one process with `tritonclient.grpc` they would otherwise clash.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "app/api/grpc/inference.proto"
SHARED, OWN = "_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()"


def generate(folder: Path) -> None:
    """Write both files below ``folder``, at their place in the source tree."""
    from grpc_tools import protoc

    arguments = ["protoc", f"-I{ROOT}", f"--python_out={folder}", f"--pyi_out={folder}", str(ROOT / SOURCE)]
    if protoc.main(arguments):
        raise SystemExit("protoc failed")
    module = (folder / SOURCE).with_name("inference_pb2.py")
    text = module.read_text(encoding="utf-8")
    assert text.count(SHARED) == 1
    module.write_text(text.replace(SHARED, OWN), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
