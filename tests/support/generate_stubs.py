"""Write type stubs for every protobuf module of xds-protos, so that mypy sees real message types.

xds-protos ships no `.pyi` files, but the descriptors inside its modules are complete: they are dumped as one
FileDescriptorSet and handed to protoc's own stub generator. Usage: `python -m tests.support.generate_stubs DIR`.
"""

import importlib
import pkgutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_tools import protoc

ROOTS = ("envoy", "xds", "google.rpc", "opentelemetry", "udpa", "validate")


def generated_modules() -> Iterator[str]:
    """Names of all `_pb2` modules below the packages that the mesh uses."""
    for root in ROOTS:
        package = importlib.import_module(root)
        for module in pkgutil.walk_packages(package.__path__, f"{root}."):
            if module.name.endswith("_pb2"):
                yield module.name


def descriptor_set(names: Iterator[str]) -> descriptor_pb2.FileDescriptorSet:
    """All files behind the modules `names`, dependencies first, each once."""
    found: dict[str, FileDescriptor] = {}

    def visit(file: FileDescriptor) -> None:
        if file.name in found:
            return
        for dependency in file.dependencies:
            visit(dependency)
        found[file.name] = file

    for name in names:
        importlib.import_module(name)
        visit(descriptor_pool.Default().FindFileByName(name.removesuffix("_pb2").replace(".", "/") + ".proto"))
    result = descriptor_pb2.FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(result.file.add())
    return result


def main() -> int:
    """Write the stubs below the folder named on the command line."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    files = descriptor_set(generated_modules())
    wanted = [file.name for file in files.file if not file.name.startswith("google/protobuf/")]
    with tempfile.NamedTemporaryFile(suffix=".fds") as dump:
        dump.write(files.SerializeToString())
        dump.flush()
        status = int(protoc.main(["protoc", f"--descriptor_set_in={dump.name}", f"--pyi_out={target}", *wanted]))
    # Namespace packages would hide the stubs behind the untyped modules that are installed.
    for folder in [path for path in target.rglob("*") if path.is_dir()]:
        (folder / "__init__.pyi").touch()
    return status


if __name__ == "__main__":
    sys.exit(main())
