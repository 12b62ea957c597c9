"""Every setting of etcdlock in one frozen record: from flags, the environment, a TOML file, or its default.

The first that has it wins. A key that is not known is refused, wherever it stands; a mistake names the file (or
variable), the key, the value and the rule. Secrets are read from files only. docs/CONFIGURATION.md documents every
setting, which a test holds to be true.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from etcdlock.errors import InvalidInput, InvalidSetting, reason_of
from etcdlock.escalation import Action
from etcdlock.identity import RULES_VERSION, check_local_folder, check_no_local_folders
from etcdlock.keyspace import Keyspace
from etcdlock.session import Contract
from etcdlock.timing import Timing

DEFAULT_FILE = Path("/etc/etcdlock/etcdlock.toml")
ENVIRONMENT_PREFIX = "ETCDLOCK_"
FOR_GUESTS = frozenset(("TOKEN", "GUEST", "DOMAIN_UUID", "DOMAIN_NAME"))
"""What a guest finds in its environment under our prefix: no settings, and no mistakes if it runs etcdlock itself."""
FOR_COMMANDS = frozenset(("RESOURCES", "DEADLINE", "GUEST_PID"))
"""What the command of `on_session_lost` finds there besides."""
ROOT = 0
SYSTEM_FOLDER = "/run/"
FILE_VARIABLE = "CONFIG"
"""Names the file, so it cannot stand in the file; no setting either."""
CREDENTIALS = "$CREDENTIALS_DIRECTORY/"
"""What a path to a secret may begin with: systemd's LoadCredential= and LoadCredentialEncrypted=."""
LISTS = frozenset(("endpoints", "local_folders"))
"""Several values, separated by commas in the environment."""


TABLES = frozenset(("timing", "fence"))
"""Settings that are tables in the file."""
SECRET = re.compile(r"(passwd|password|secret|secret_key|token|cookie)$")
"""How options of fence agents are called that are read from files alone."""
SHADOW = ".shadow"
"""What the name of a cluster ends in whose locks nobody is refused for."""


class FenceDevice(BaseModel):
    """Under `[fence.HOST]`: what switches the host off. Of several (`[[fence.HOST]]`) all have to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent: str = Field(description="the fence agent's program")
    options: dict[str, str | bool | int | float] = Field(default_factory=dict, description="its options")
    secrets: dict[str, str] = Field(default_factory=dict, description="for each secret option the file that holds it")

    @model_validator(mode="after")
    def _can_be_said(self) -> FenceDevice:
        if not self.agent.startswith("/"):
            raise ValueError(f"agent is {self.agent!r}: give an absolute path, such as /usr/sbin/fence_ipmilan")
        for name, value in {**self.options, **self.secrets}.items():
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name == "action":
                raise ValueError(f"{name!r} is no option that can be set")
            if not str(value).isprintable():
                raise ValueError(f"option {name!r} has characters that cannot be printed")
        for name in self.options:
            if SECRET.search(name):
                raise ValueError(f"option {name!r} is a secret: put it into a file, and name that under secrets")
        return self

    def spelled(self) -> dict[str, str]:
        """The options as agents read them."""
        return {name: str(int(item)) if isinstance(item, bool) else str(item) for name, item in self.options.items()}


class TimingSettings(BaseModel):
    """Table `[timing]`: the cluster's timing contract, the same on every host. Seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ttl_seconds: int = Field(default=10, description="TTL of a session's lease in etcd")
    hold_off_seconds: float = Field(default=25.0, description="how long a session must be missing to count as dead")
    renew_every_seconds: float = Field(default=2.0, description="how often a session is renewed")
    try_timeout_seconds: float = Field(default=1.5, description="how long one try at one endpoint may take")
    kill_seconds: float = Field(default=5.0, description="time for a killed guest to be gone")
    guard_lag_seconds: float = Field(default=1.0, description="how late the guard may be scheduled")
    clock_rate_error: float = Field(default=0.001, description="by how much two hosts' clocks may differ in rate")


class Settings(BaseSettings):
    """All settings, checked and frozen."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", env_ignore_empty=True
    )

    mode: Literal["enforce", "shadow"] = Field(default="enforce", description="whether the agent refuses and stops")
    cluster: str = Field(default="default", min_length=1, description="the hosts of one cluster share locks")
    prefix: str = Field(default="/etcdlock", description="where in etcd all keys lie")
    host_id: str = Field(default="", description="this host's unique name in the cluster; default: its host name")
    endpoints: tuple[str, ...] = Field(default=("127.0.0.1:2379",), min_length=1, description="etcd members, host:port")
    ca_file: str = Field(default="", description="CA that etcd's certificates are checked against; switches TLS on")
    cert_file: str = Field(default="", description="client certificate")
    key_file: str = Field(default="", description="the client certificate's private key")
    username: str = Field(default="", description="etcd user")
    password_file: str = Field(default="", description="file that holds the etcd user's password")
    max_txn_ops: int = Field(default=128, ge=8, description="etcd's --max-txn-ops")
    allow_unsafe_etcd: bool = Field(default=False, description="accept an etcd that can lose committed data")
    disk_identity: Literal["auto", "path", "md5"] = Field(default="auto", description="how a disk is named")
    unidentified_disks: Literal["refuse", "path"] = Field(default="refuse", description="what becomes of unknown ones")
    readonly_disks: Literal["none", "shared"] = Field(default="none", description="what a read-only disk takes")
    backing_chain: Literal["none", "shared"] = Field(default="none", description="what the images below a disk take")
    local_folders: tuple[str, ...] = Field(default=(), description="folders that each host has for itself")
    takeover_needs: Literal["silence", "fence"] = Field(default="silence", description="what proves a host's end")
    answer_seconds: float = Field(default=10.0, gt=0, description="how long a command waits for an etcd that is away")
    lock_socket: str = Field(default="/run/libvirt/virtlockd-sock", description="where the agent listens for libvirt")
    acquire_seconds: float = Field(default=10.0, gt=0, description="how long the agent lets libvirt wait for a lock")
    api_socket: str = Field(default="", description="where the agent listens for programs")
    api_group: str = Field(default="", description="the group whose members may look through the agent's API")
    guard_socket: str = Field(default="", description="where systemd starts the agent's guard in a unit of its own")
    metrics_listen: str = Field(default="", description="address:port where the agent's metrics are served over TCP")
    run_folder: str = Field(default="/run/etcdlock", description="where the agent keeps what says that it runs")
    state_folder: str = Field(default="/var/lib/etcdlock", description="where the agent keeps what happened here")
    on_session_lost: Action | Literal[""] = Field(default="", description="what is done first at a lost session, here")
    cluster_on_session_lost: Action = Field(default=Action.KILL, description="the same where a host does not say")
    on_session_lost_command: str = Field(default="", description="program that is run first, and then they are killed")
    fencing: Literal["manual", "automatic"] = Field(default="manual", description="who has hosts fenced")
    fence_after_seconds: float = Field(default=10.0, ge=0, description="how long a host is missing before that")
    fence_timeout_seconds: float = Field(default=60.0, gt=0, description="how long a fence agent may take")
    watchdog: Literal["off", "automatic", "required"] = Field(default="off", description="whether the agent has one")
    watchdog_device: str = Field(default="/dev/watchdog", description="the host's watchdog device")
    driver: str = Field(default="agent", min_length=1, description="the lock manager's driver, where none is named")
    fcntl_folder: str = Field(default="/run/etcdlock/fcntl", description="where the driver fcntl keeps its locks")
    via: Literal["auto", "agent", "own"] = Field(default="auto", description="whether commands go through the agent")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="warning", description="what is logged")
    timing: TimingSettings = Field(default_factory=TimingSettings, description="the timing contract")
    fence: dict[str, tuple[FenceDevice, ...]] = Field(default_factory=dict, description="how hosts are switched off")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - this and the next: pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` hands in: it has already put flags over the environment over the file."""
        return (init_settings,)

    @field_validator("local_folders")
    @classmethod
    def _one_form(cls, folders: tuple[str, ...]) -> tuple[str, ...]:
        """The same on every host that means the same folders."""
        try:
            return tuple(sorted({check_local_folder(folder) for folder in folders}))
        except InvalidInput as error:
            raise ValueError(f"{error}; {error.hint}" if error.hint else str(error)) from error

    @field_validator("fence", mode="before")
    @classmethod
    def _one_or_several(cls, tables: object) -> object:
        """One table stands for a list of one."""
        if not isinstance(tables, Mapping):
            return tables
        return {host: (table,) if isinstance(table, Mapping) else table for host, table in tables.items()}

    @field_validator("metrics_listen")
    @classmethod
    def _is_a_place(cls, place: str) -> str:
        host, colon, port = place.rpartition(":")
        if place and not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError("give address:port, as 10.0.0.1:9379 or [::1]:9379; 0.0.0.0 is every network of this host")
        return place

    @model_validator(mode="after")
    def _means_its_folders(self) -> Settings:
        try:
            check_no_local_folders(self.disk_identity, self.local_folders)
        except InvalidInput as error:
            raise ValueError(f"{error}; {error.hint}") from error
        return self

    @model_validator(mode="after")
    def _has_its_command(self) -> Settings:
        if self.lost_action is Action.COMMAND and not self.on_session_lost_command:
            name = "on_session_lost" if self.on_session_lost else "cluster_on_session_lost"
            raise ValueError(f"{name} is 'command': on_session_lost_command must name this host's program")
        if self.on_session_lost_command and not self.on_session_lost_command.startswith("/"):
            raise ValueError(f"on_session_lost_command is {self.on_session_lost_command!r}: give an absolute path")
        return self

    @property
    def lost_action(self) -> Action:
        """What is done first with this host's guests if they do not choose themselves: its own word, or the cluster's.
        """
        return self.on_session_lost or self.cluster_on_session_lost

    @property
    def is_shadow(self) -> bool:
        """Whether this host's agent only notes what it would refuse and stop."""
        return self.mode == "shadow"

    def in_its_cluster(self) -> Settings:
        """In shadow mode all is done in a cluster of its own beside the real one, and of that name and `SHADOW`."""
        if not self.is_shadow or self.cluster.endswith(SHADOW):
            return self
        return self.model_copy(update={"cluster": f"{self.cluster}{SHADOW}"})

    def for_real(self) -> Settings:
        """The same for what enforces its locks whatever the mode, in the real cluster."""
        return self.model_copy(update={"mode": "enforce", "cluster": self.cluster.removesuffix(SHADOW)})

    @property
    def contract(self) -> Contract:
        """What all hosts of the cluster must agree on. Raises `UnsafeTiming`."""
        return Contract(
            timing=Timing(**self.timing.model_dump()),
            disk_identity=self.disk_identity,
            readonly_disks=self.readonly_disks,
            backing_chain=self.backing_chain,
            takeover_needs=self.takeover_needs,
            local_folders=self.local_folders,
            identity_rules=RULES_VERSION if self.disk_identity == "auto" else 0,
            on_session_lost=self.cluster_on_session_lost,
        )

    @property
    def keyspace(self) -> Keyspace:
        """Where the cluster's keys lie."""
        return Keyspace(cluster=self.cluster, prefix=self.prefix)

    @property
    def api_path(self) -> str:
        """Where the agent's API is."""
        return self.api_socket or f"{self.run_folder}/agent.sock"

    @property
    def guard_path(self) -> str:
        """Where systemd starts guards, if it does."""
        return self.guard_socket or f"{self.run_folder}/guard.sock"

    @property
    def api_paths(self) -> tuple[str, ...]:
        """Where an agent's API may be looked through: one's own, and where nothing else was said the system's."""
        system = f"{Settings.model_fields['run_folder'].default}/agent.sock"
        return tuple(dict.fromkeys((self.api_path, *(() if self.api_socket else (system,)))))

    def credential(self, name: str, /, *, environment: Mapping[str, str] = os.environ) -> str:
        """The path that the setting `name` gives, with systemd's folder of credentials put in where it is named.

        Only where it is needed: a command that asks the agent has no credentials, and reads the same file of settings.
        Raises `InvalidSetting`.
        """
        path = str(getattr(self, name))
        if not path.startswith(CREDENTIALS):
            return path
        folder = environment.get("CREDENTIALS_DIRECTORY", "")
        if not folder:
            raise InvalidSetting(
                f"{name}: {path}: systemd has given this program no credentials",
                hint="LoadCredential= in its unit does; a command of yours goes through the agent: --via agent",
            )
        return f"{folder}/{path.removeprefix(CREDENTIALS)}"

    def password(self) -> str:
        """The password from its file, without the line end. Raises `InvalidSetting`."""
        path = self.credential("password_file")
        if not path:
            return ""
        try:
            return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSetting(f"password_file: {path} cannot be read: {reason_of(error)}") from error


def load(
    *, file: Path | None = None, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] = os.environ
) -> Settings:
    """Settings from flags, the environment and the file. `file` must exist if it is given; the default one may not.

    Raises `InvalidSetting`, naming where the mistake stands.
    """
    variable = environment.get(ENVIRONMENT_PREFIX + FILE_VARIABLE)
    named = file or (Path(variable) if variable else None)
    path = named or DEFAULT_FILE
    from_file = _read_file(path, must_exist=named is not None)
    from_environment = _read_environment(environment)
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    merged = {**_own_places(environment, uid=os.geteuid()), **from_file, **from_environment, **given}
    timing = {**from_file.get("timing", {}), **from_environment.get("timing", {}), **given.get("timing", {})}
    if timing:
        merged["timing"] = timing
    sources = ((str(path), from_file), ("the environment", from_environment), ("the command line", given))
    try:
        settings = Settings(**merged).in_its_cluster()
    except ValidationError as error:
        raise _explained(error, sources) from error
    settings.keyspace  # noqa: B018 - refuses a prefix that no key can have
    return settings


def _own_places(environment: Mapping[str, str], *, uid: int) -> dict[str, str]:
    """Where an ordinary user has what the system has in /run, as libvirt's own user mode does."""
    folder = environment.get("XDG_RUNTIME_DIR", "")
    if uid == ROOT:
        return {}
    state = environment.get("XDG_STATE_HOME") or f"{environment.get('HOME', '/nonexistent')}/.local/state"
    mine = {"state_folder": f"{state}/etcdlock"}
    if not folder:
        return mine
    places = {name: field.default for name, field in Settings.model_fields.items()}
    return mine | {
        name: f"{folder}/{place.removeprefix(SYSTEM_FOLDER)}"
        for name, place in places.items()
        if isinstance(place, str) and place.startswith(SYSTEM_FOLDER)
    }


def _read_file(path: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if must_exist:
            raise InvalidSetting(f"{path}: no such file") from None
        return {}
    except OSError as error:
        raise InvalidSetting(f"{path}: it cannot be read: {reason_of(error)}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSetting(f"{path}: {error}", hint="it must be a TOML file in UTF-8") from error
    if not isinstance(values.get("timing", {}), dict):
        raise InvalidSetting(f"{path}: key 'timing' must be a table: [timing]")
    return values


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    timing: dict[str, str] = {}
    for name, value in environment.items():
        key = name.removeprefix(ENVIRONMENT_PREFIX)
        if key in (name, FILE_VARIABLE) or key in FOR_GUESTS | FOR_COMMANDS or not value:
            continue
        setting = key.lower()
        if setting.startswith("timing__"):
            timing[setting.removeprefix("timing__")] = value
        elif setting in LISTS:
            values[setting] = tuple(part.strip() for part in value.split(",") if part.strip())
        else:
            values[setting] = value
    return {**values, "timing": timing} if timing else values


def _explained(error: ValidationError, sources: tuple[tuple[str, Mapping[str, Any]], ...]) -> InvalidSetting:
    """The first mistake in words: where it stands, key, value, rule."""
    mistake = error.errors()[0]
    path = [str(part) for part in mistake["loc"]]
    if not path:
        return InvalidSetting(_rule(mistake))
    key = ".".join(path[:2] + path[3:] if path[0] == "fence" else path)  # which of a host's tables, its words tell
    where = next((name for name, values in reversed(sources) if path and _has(values, path)), "settings")
    given = _shown(path, mistake["input"])
    if mistake["type"] == "extra_forbidden":
        table = _fields_of(path)
        close = difflib.get_close_matches(path[-1], list(table), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "docs/CONFIGURATION.md lists every setting"
        return InvalidSetting(f"{where}: there is no setting {key!r}{given and f' (value {given})'}", hint=hint)
    return InvalidSetting(f"{where}: {key}{given and f' is {given}'}: {_rule(mistake)}")


def _rule(mistake: Mapping[str, Any]) -> str:
    """What was broken, in words of ours."""
    if mistake["type"] == "tuple_type":
        return "it must be a list, in square brackets"
    said = str(mistake["msg"]).removeprefix("Value error, ")
    return re.sub(r"^(Input|String) should ", "it must ", said)


def _shown(path: Sequence[str], value: object) -> str:
    """A value in a message; empty where it is, or may hold, a secret that somebody has put where none belongs."""
    return "" if isinstance(value, Mapping) or SECRET.search(path[-1]) else repr(value)


def _fields_of(path: list[str]) -> Mapping[str, Any]:
    if len(path) < 2:
        return Settings.model_fields
    return FenceDevice.model_fields if path[0] == "fence" else TimingSettings.model_fields


def _has(values: Mapping[str, Any], path: list[str]) -> bool:
    inner = values.get(path[0], {}) if len(path) > 1 and path[0] == "timing" else None
    return path[1] in inner if isinstance(inner, Mapping) and inner else path[0] in values and inner is None
