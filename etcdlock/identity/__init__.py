"""What a disk is called: two hosts that mean the same disk must arrive at the same name.

Pure: texts and facts in, names out; no file is looked at here. What that gives and what not:

* Under `auto` a path is named by what a host finds there (`files`, `devices`): docs/IDENTITY.md has every rule.
* Under `path` and `md5` a symbolic link, a second mount point, or a disk reached by two protocols has two names: these
  are different texts. What lies below a folder that every host has for itself is called after its host.
* Where a name must be too wide or too narrow, it is too wide: two disks that share a name are refused once too often,
  one disk with two names is destroyed.
"""

from etcdlock.identity.chain import DEEPEST_CHAIN, Chain, Link, Read, may_have_backing, read_chain
from etcdlock.identity.explicit import VOLUME_LOCKSPACE, identify_lease, identify_volume
from etcdlock.identity.naming import (
    RULES_VERSION,
    Naming,
    check_no_local_folders,
    local_lockspace,
    stays_behind,
)
from etcdlock.identity.network import NetworkHost, NetworkSource, identify_network
from etcdlock.identity.paths import (
    MD5_LOCKSPACE,
    PATH_LOCKSPACE,
    check_local_folder,
    identify_path,
    normal_path,
    path_bytes,
)
from etcdlock.identity.qcow2 import QCOW2
from etcdlock.identity.wanted import (
    DiskArgument,
    Named,
    check_reservable,
    distinct,
    layer_mode,
    of_domain,
    parse_disk_argument,
    with_readonly_rule,
)
from etcdlock.identity.whole import whole_of, with_wholes
from etcdlock.identity.words import DiskIdentity, Identified, ResourceName, escaped

__all__ = [
    "DEEPEST_CHAIN",
    "MD5_LOCKSPACE",
    "PATH_LOCKSPACE",
    "QCOW2",
    "RULES_VERSION",
    "VOLUME_LOCKSPACE",
    "Chain",
    "DiskArgument",
    "DiskIdentity",
    "Identified",
    "Link",
    "Named",
    "Naming",
    "NetworkHost",
    "NetworkSource",
    "Read",
    "ResourceName",
    "check_local_folder",
    "check_no_local_folders",
    "check_reservable",
    "distinct",
    "escaped",
    "identify_lease",
    "identify_network",
    "identify_path",
    "identify_volume",
    "layer_mode",
    "local_lockspace",
    "may_have_backing",
    "normal_path",
    "of_domain",
    "parse_disk_argument",
    "path_bytes",
    "read_chain",
    "stays_behind",
    "whole_of",
    "with_readonly_rule",
    "with_wholes",
]
