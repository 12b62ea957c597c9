"""etcd3's stubs are built beside whatever else has registered the same file names, or refused with a reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from etcdlock.adapters.stubs import build_modules, load
from etcdlock.errors import InvalidSetting

BESIDE_ANOTHER = """
from google.protobuf import descriptor_pb2, descriptor_pool
for name in ("rpc.proto", "kv.proto", "auth.proto"):
    other = descriptor_pb2.FileDescriptorProto(name=name, package="etcdserverpb")
    other.message_type.add(name="TxnRequest" if name == "rpc.proto" else name.partition(".")[0])
    descriptor_pool.Default().Add(other)
from etcdlock.adapters.stubs import load
print(load().messages.TxnRequest(success=[]).ByteSize())
import etcd3
print(etcd3.etcdrpc.TxnRequest is load().messages.TxnRequest)
"""


def test_a_range_compare_survives_the_wire() -> None:
    messages = load().messages
    compare = messages.Compare(target="CREATE", result="EQUAL", key=b"/a/", range_end=b"/a0", create_revision=0)
    again = messages.Compare.FromString(compare.SerializeToString())
    assert (again.key, again.range_end, again.WhichOneof("target_union")) == (b"/a/", b"/a0", "create_revision")


def test_another_librarys_files_of_the_same_name_do_no_harm() -> None:
    done = subprocess.run([sys.executable, "-c", BESIDE_ANOTHER], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["0", "True"], done.stderr


def test_importing_the_module_alone_does_not_import_etcd3() -> None:
    code = "import sys, etcdlock.adapters.stubs; print('etcd3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("DESCRIPTOR = None\n", "no serialized descriptor"),
        ("this is no Python", "cannot be read"),
        ("f(serialized_pb=_b('nonsense'))", "cannot read the descriptor"),
        (None, "cannot be read"),
    ],
)
def test_files_that_look_different_are_refused_by_name(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "kv_pb2.py").write_text(text)
    with pytest.raises(InvalidSetting, match=f"kv_pb2.*{said}|{said}.*kv_pb2") as refused:
        build_modules(tmp_path)
    assert "0.12.0" in refused.value.hint
