"""Where settings come from, and what is said of a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from etcdlock.config import ENVIRONMENT_PREFIX, FOR_COMMANDS, FOR_GUESTS, TABLES, Settings, TimingSettings, load
from etcdlock.errors import InvalidInput, InvalidSetting
from etcdlock.escalation import Action


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "etcdlock.toml"


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(file: Path) -> None:
    settings_of_all = 'cluster = "file"\nhost_id = "file"\nprefix = "/file"\n'
    file.write_text(f"{settings_of_all}[timing]\nttl_seconds = 11\nkill_seconds = 4")
    variables = {"ETCDLOCK_CLUSTER": "env", "ETCDLOCK_HOST_ID": "env", "ETCDLOCK_TIMING__KILL_SECONDS": "3"}
    settings = load(file=file, environment=variables, flags={"cluster": "flag", "host_id": None})
    assert (settings.cluster, settings.host_id, settings.prefix) == ("flag", "env", "/file")
    assert (settings.timing.ttl_seconds, settings.timing.kill_seconds) == (11, 3)


def test_every_setting_can_be_given_by_its_variable() -> None:
    values = {
        "endpoints": "a:1, b:2", "max_txn_ops": "200", "allow_unsafe_etcd": "true", "log_level": "info", "prefix": "/p",
        "readonly_disks": "shared", "takeover_needs": "fence", "answer_seconds": "3", "acquire_seconds": "4",
        "lock_socket": "/run/l", "api_socket": "/run/a", "run_folder": "/run/r", "state_folder": "/s",
        "disk_identity": "md5", "backing_chain": "shared",
        "local_folders": "/b/, /a", "on_session_lost": "freeze", "on_session_lost_command": "/c",
        "cluster_on_session_lost": "freeze",
        "mode": "shadow", "watchdog": "required", "via": "own", "fencing": "automatic", "fence_after_seconds": "3",
        "fence_timeout_seconds": "4", "unidentified_disks": "path",
        "metrics_listen": "10.0.0.1:9379",
    }  # fmt: skip
    names = [name for name in Settings.model_fields if name not in TABLES]
    variables = {f"{ENVIRONMENT_PREFIX}{name.upper()}": values.get(name, "given") for name in names}
    settings = load(environment=variables)
    default = Settings()
    assert settings.endpoints == ("a:1", "b:2")
    assert [name for name in names if getattr(settings, name) == getattr(default, name)] == []


def test_hosts_that_mean_the_same_local_folders_have_the_same_contract() -> None:
    one = load(environment={"ETCDLOCK_LOCAL_FOLDERS": "/b//x/, /a", "ETCDLOCK_DISK_IDENTITY": "path"})
    other = load(environment={}, flags={"local_folders": ["/a/.", "/a", "/b/x"], "disk_identity": "path"})
    assert one.contract == other.contract
    assert one.contract.as_mapping()["local_folders"] == ["/a", "/b/x"]


@pytest.mark.parametrize("place", ["9379", ":9379", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:x", "10.0.0.1:70000"])
def test_a_place_for_metrics_is_an_address_and_a_port(place: str) -> None:
    with pytest.raises(InvalidSetting, match=r"the environment: metrics_listen is .*give address:port"):
        load(environment={"ETCDLOCK_METRICS_LISTEN": place})


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"on_session_lost": "command"}, "^on_session_lost is 'command': on_session_lost_command must name"),
        ({"cluster_on_session_lost": "command"}, "^cluster_on_session_lost is 'command': on_session_lost_command must"),
        ({"on_session_lost_command": "stop.sh"}, "give an absolute path"),
        ({"on_session_lost": "ignore"}, "on_session_lost.* is 'ignore'"),
        ({"cluster_on_session_lost": "ignore"}, "cluster_on_session_lost is 'ignore'"),
        ({"cluster_on_session_lost": ""}, "cluster_on_session_lost is ''"),
    ],
)
def test_what_stops_no_guest_is_refused(values: dict[str, str], rule: str) -> None:
    with pytest.raises(InvalidSetting, match=rule):
        load(environment={}, flags=values)


@pytest.mark.parametrize(
    ("host", "cluster", "done"),
    [
        ("", "kill", Action.KILL),
        ("", "freeze", Action.FREEZE),
        ("kill", "freeze", Action.KILL),
        ("freeze", "kill", Action.FREEZE),
        ("kill", "command", Action.KILL),
    ],
)
def test_a_hosts_own_word_counts_before_its_clusters(host: str, cluster: str, done: Action) -> None:
    settings = load(environment={}, flags={"on_session_lost": host, "cluster_on_session_lost": cluster})
    assert settings.lost_action is done
    assert settings.contract.on_session_lost == cluster, "whatever this host does itself, it agrees on the cluster's"


@pytest.mark.parametrize("name", TimingSettings.model_fields)
def test_every_timing_can_be_given_by_its_variable(name: str) -> None:
    settings = load(environment={f"ETCDLOCK_TIMING__{name.upper()}": "7"})
    assert getattr(settings.timing, name) == 7


def test_what_a_guest_finds_in_its_environment_is_no_mistake() -> None:
    found = {f"{ENVIRONMENT_PREFIX}{name}": "x" for name in FOR_GUESTS | FOR_COMMANDS}
    assert load(environment=found) == load(environment={})


def test_no_variable_of_a_guest_is_a_setting() -> None:
    assert {name.lower() for name in FOR_GUESTS | FOR_COMMANDS} & Settings.model_fields.keys() == set()


def test_the_file_can_be_named_by_a_variable_and_must_then_exist(file: Path) -> None:
    with pytest.raises(InvalidSetting, match="no such file"):
        load(environment={"ETCDLOCK_CONFIG": str(file)})
    file.write_text('cluster = "blue"')
    assert load(environment={"ETCDLOCK_CONFIG": str(file)}).cluster == "blue"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clustr = 'x'", "there is no setting 'clustr'"),
        ("config = 'x'", "there is no setting 'config'"),
        ("max_txn_ops = 'many'", "max_txn_ops is 'many'"),
        ("disk_identity = 'uuid'", "disk_identity is 'uuid'"),
        ("timing = 3", "must be a table"),
        ("[timing]\nttl = 3", "there is no setting 'timing.ttl'"),
        ("cluster = ''", "cluster is ''"),
        ("local_folders = ['var']", "the path 'var' is not absolute"),
        ("local_folders = ['/']", "no disk would be shared any more"),
        ("local_folders = ['/a/../san']", "contains '..'"),
        ("endpoints = '10.0.0.1:2379'", "endpoints is '10.0.0.1:2379': it must be a list"),
        ("metrics_listen = '9379'", "metrics_listen is '9379': give address:port"),
        ("answer_seconds = 0", "answer_seconds is 0: it must be greater than 0"),
        ("[fence.node-7]\nagent = 'fence_x'", "fence.node-7: agent is 'fence_x': give an absolute path"),
    ],
)
def test_a_mistake_names_the_file_the_key_and_the_value(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidSetting, match=says) as mistake:
        load(file=file, environment={})
    assert str(file) in str(mistake.value)


@pytest.mark.parametrize(
    "text",
    [
        "password = 'geheim'",
        "[fence.node-7]\nagent = '/usr/sbin/fence_x'\npasswd = 'geheim'",
        "[fence.node-7]\nagent = '/usr/sbin/fence_x'\noptions = { passwd = 'geheim' }",
        "[fence.node-7]\nagent = '/usr/sbin/fence_x'\nsecret = { passwd = 'geheim' }",
    ],
)
def test_a_secret_that_stands_where_none_belongs_is_not_repeated_to_whoever_reads_the_message(
    file: Path, text: str
) -> None:
    file.write_text(text)
    with pytest.raises(InvalidSetting) as mistake:
        load(file=file, environment={})
    assert "geheim" not in f"{mistake.value} {mistake.value.hint}"


def test_a_mistake_in_a_variable_or_a_flag_says_that_it_stands_there() -> None:
    with pytest.raises(InvalidSetting, match="the environment: there is no setting 'clustr'"):
        load(environment={"ETCDLOCK_CLUSTR": "x"})
    with pytest.raises(InvalidSetting, match="the command line: log_level is 'loud'"):
        load(environment={}, flags={"log_level": "loud"})


@pytest.mark.parametrize("prefix", ["etcdlock", "/etcdlock/", "/"])
def test_a_prefix_under_which_two_clusters_could_meet_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidInput, match="prefix"):
        load(environment={"ETCDLOCK_PREFIX": prefix})


def test_the_password_is_read_from_its_file_without_the_line_end(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("pass word \n")
    assert load(environment={"ETCDLOCK_PASSWORD_FILE": str(secret)}).password() == "pass word "
    with pytest.raises(InvalidSetting, match="password_file"):
        load(environment={"ETCDLOCK_PASSWORD_FILE": str(tmp_path / "none")}).password()


def test_a_secret_may_be_one_of_systemds_credentials(tmp_path: Path) -> None:
    named = {"ETCDLOCK_KEY_FILE": "$CREDENTIALS_DIRECTORY/etcd.key", "ETCDLOCK_CERT_FILE": "/etc/cert.pem"}
    settings = load(environment=named)
    given = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert settings.credential("key_file", environment=given) == f"{tmp_path}/etcd.key"
    assert settings.credential("cert_file", environment={}) == "/etc/cert.pem"
    with pytest.raises(InvalidSetting, match=r"key_file: .*etcd\.key: systemd has given this program no credentials"):
        settings.credential("key_file", environment={})


def test_a_password_may_be_one_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "etcd.password").write_text("secret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    settings = load(environment={"ETCDLOCK_PASSWORD_FILE": "$CREDENTIALS_DIRECTORY/etcd.password"})
    assert settings.password() == "secret"


@pytest.mark.parametrize(
    ("uid", "environment", "folder"),
    [
        (1000, {"XDG_RUNTIME_DIR": "/run/user/1000"}, "/run/user/1000"),
        (1000, {}, "/run"),
        (0, {"XDG_RUNTIME_DIR": "/run/user/0"}, "/run"),
    ],
    ids=["an ordinary user", "a user without such a folder", "root"],
)
def test_an_ordinary_user_has_sockets_where_that_users_own_libvirt_looks(
    monkeypatch: pytest.MonkeyPatch, uid: int, environment: dict[str, str], folder: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    settings = load(environment=environment)
    assert settings.lock_socket == f"{folder}/libvirt/virtlockd-sock"
    assert settings.run_folder == f"{folder}/etcdlock"
    assert load(environment={**environment, "ETCDLOCK_RUN_FOLDER": "/mine"}).run_folder == "/mine"


def test_local_folders_mean_nothing_where_disks_are_known_by_what_they_are() -> None:
    with pytest.raises(InvalidSetting, match=r"^local_folders have no meaning"):
        load(environment={}, flags={"local_folders": ["/local"]})


def test_shadow_mode_has_a_cluster_of_its_own_which_the_real_one_is_never_taken_for() -> None:
    shadow = load(environment={"ETCDLOCK_MODE": "shadow", "ETCDLOCK_CLUSTER": "x"})
    real = load(environment={"ETCDLOCK_CLUSTER": "x"})
    assert (shadow.cluster, shadow.for_real().cluster, real.cluster) == ("x.shadow", "x", "x")
    assert not shadow.keyspace.root.startswith(real.keyspace.root)
    again = load(environment={"ETCDLOCK_MODE": "shadow"}, flags={"cluster": "x.shadow"})
    assert (again.cluster, again.for_real().mode) == ("x.shadow", "enforce")
