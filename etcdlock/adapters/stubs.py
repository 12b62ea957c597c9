"""etcd3's message classes and service stubs, built for the protobuf that is installed.

etcd3 0.12.0 carries generated code that protobuf 4 and later refuse to run. The same files hold the serialized
descriptors, so they are read out of the source without running it, built into a descriptor pool of our own, and put
into `sys.modules` before etcd3 is imported, which then works as it is.

The pool is ours because another library may have registered its own `rpc.proto` or `kv.proto` in protobuf's default
pool, where a name can be taken only once. If the modules are loaded already, they are used as they are.

Nothing happens when this module is imported; `load` does the work once.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal import builder

from etcdlock.errors import InvalidSetting

_PACKAGE = "etcd3.etcdrpc"
_FILES = ("kv", "auth", "rpc")  # a file comes after those that it imports
_HINT = "Install the version etcdlock was built for: pip install 'etcd3==0.12.0'."


@dataclass(frozen=True, slots=True)
class Stubs:
    """`messages` has a class for each message of etcd's API, `services` a stub class for each of its services."""

    messages: Any
    services: Any


@functools.cache
def load() -> Stubs:
    """Build the stubs; afterwards `import etcd3` works too. Raises `InvalidSetting` if etcd3 is not as expected."""
    if f"{_PACKAGE}.rpc_pb2" not in sys.modules:
        _register(build_modules(_installed_folder()))
    try:
        messages = importlib.import_module(f"{_PACKAGE}.rpc_pb2")
        services = importlib.import_module(f"{_PACKAGE}.rpc_pb2_grpc")
    except (ImportError, AttributeError, TypeError) as error:
        raise InvalidSetting(f"The installed package etcd3 cannot be imported: {error}", hint=_HINT) from error
    return Stubs(messages=messages, services=services)


def build_modules(folder: Path, /) -> dict[str, ModuleType]:
    """The message modules by full name, from the generated files in `folder`; touches nothing else."""
    pool = DescriptorPool()
    modules = {}
    for stem in _FILES:
        name = f"{_PACKAGE}.{stem}_pb2"
        modules[name] = _build(name, path=folder / f"{stem}_pb2.py", pool=pool)
    return modules


def _build(name: str, *, path: Path, pool: DescriptorPool) -> ModuleType:
    try:
        descriptor = pool.AddSerializedFile(_serialized_descriptor(path))
    except TypeError as error:
        raise InvalidSetting(f"protobuf cannot read the descriptor in {path}: {error}", hint=_HINT) from error
    module = ModuleType(name)
    module.DESCRIPTOR = descriptor  # type: ignore[attr-defined]
    builder.BuildMessageAndEnumDescriptors(descriptor, module.__dict__)
    builder.BuildTopDescriptorsAndMessages(descriptor, name, module.__dict__)
    return module


def _serialized_descriptor(path: Path) -> bytes:
    """The argument of `serialized_pb=_b('...')`, whose characters stand for bytes."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidSetting(f"etcd3's file {path} cannot be read: {error}", hint=_HINT) from error
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="serialized_pb", value=ast.Call(args=[ast.Constant(value=str(text))])):
                return text.encode("latin-1")
    raise InvalidSetting(f"etcd3's file {path} holds no serialized descriptor where 0.12.0 has it.", hint=_HINT)


def _installed_folder() -> Path:
    found = importlib.util.find_spec("etcd3")
    if found is None or not found.submodule_search_locations:
        raise InvalidSetting("The package etcd3 is not installed.", hint=_HINT)
    return Path(found.submodule_search_locations[0]) / "etcdrpc"


def _register(modules: dict[str, ModuleType]) -> None:
    """Put them where etcd3 looks; on failure leave nothing half done behind."""
    sys.modules.update(modules)
    try:
        importlib.import_module("etcd3")
    except (ImportError, AttributeError, TypeError) as error:
        for name in modules:
            sys.modules.pop(name, None)
        raise InvalidSetting(f"The installed package etcd3 cannot be imported: {error}", hint=_HINT) from error
