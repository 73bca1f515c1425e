"""Settings: where each comes from, and clear errors where they are wrong."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from fractale.errors import SettingsError
from fractale.masking import Masker
from fractale.questions.forms import secret_fields
from fractale.secret_names import is_secret
from fractale.settings import load_settings, without_password, without_secrets


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "FRACTALE_TRUST_PROJECT": "1"}


def write(folder: Path, text: str) -> Path:
    path = folder / ".fractale" / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_anything_the_defaults_hold(home, tmp_path):
    settings = load_settings(home, tmp_path)
    assert settings.model_spec == "gemini:gemini-2.5-pro"
    assert settings.servers == {}
    assert settings.origins["provider"] == "default"


def test_the_environment_goes_over_the_project_and_the_project_over_the_user(home, tmp_path):
    user = tmp_path / "home" / ".config" / "fractale" / "config.yaml"
    user.parent.mkdir(parents=True)
    user.write_text("provider: openai\nmodel: a\nmax_attempts: 7\n")
    project = write(tmp_path, "model: b\n")
    settings = load_settings({**home, "FRACTALE_LLM_PROVIDER": "local"}, tmp_path)
    assert (settings.provider, settings.model, settings.max_attempts) == ("local", "b", 7)
    assert settings.origins["provider"] == "environment FRACTALE_LLM_PROVIDER"
    assert settings.origins["model"] == str(project)
    assert settings.origins["max_attempts"] == str(user)


def test_the_project_is_found_from_a_folder_below_it(home, tmp_path):
    write(tmp_path, "model: b\n")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    settings = load_settings(home, below)
    assert settings.model == "b"
    assert settings.state_dir == tmp_path / ".fractale"


def test_flags_go_over_everything(home, tmp_path):
    settings = load_settings({**home, "FRACTALE_LLM_MODEL": "x"}, tmp_path)
    flagged = settings.with_flags(model="openai:y")
    assert flagged.model_spec == "openai:y"
    assert flagged.origins["model"] == "command line"


def test_another_backend_does_not_keep_the_first_ones_model(home, tmp_path):
    settings = load_settings({**home, "FRACTALE_LLM_MODEL": "gemini-x"}, tmp_path)
    assert settings.with_flags(provider="openai").model_spec == "openai:gpt-4.1"


@pytest.mark.parametrize("name", ["GEMINI_API_KEY", "GEMINI_API_TOKEN"])
def test_geminis_key_has_the_names_that_0_1_0_used(home, tmp_path, name):
    assert load_settings({**home, name: "k" * 20}, tmp_path).gemini_api_key == "k" * 20


def test_the_port_and_token_of_0_1_0_make_a_server(home, tmp_path):
    environment = {**home, "FRACTALE_MCP_PORT": "9001", "FRACTALE_MCP_TOKEN": "t" * 12}
    server = load_settings(environment, tmp_path).servers["default"]
    assert server.url == "http://127.0.0.1:9001/mcp"
    assert server.token == "t" * 12
    assert "t" * 12 not in repr(server)


def test_servers_of_every_transport(home, tmp_path):
    write(
        tmp_path,
        """
servers:
  web: {url: "http://127.0.0.1:1/mcp", token_env: WEB, headers: {X: y}, verify: false}
  old: {url: "http://127.0.0.1:1/sse", transport: sse}
  own: {command: python, args: [-m, x], env: {A: b}, timeout: 5, handshake: 2m}
  key: {url: "http://127.0.0.1:1/mcp", headers: {X-Key: "Key ${WEB}"}, timeout: 1.5s}
""",
    )
    servers = load_settings({**home, "WEB": "s" * 10}, tmp_path).servers
    assert [s.transport for s in servers.values()] == ["http", "sse", "stdio", "http"]
    assert servers["web"].token == "s" * 10
    assert (servers["own"].timeout, servers["own"].handshake) == (5.0, 120.0)
    assert (servers["key"].timeout, servers["key"].handshake) == (1.5, None)
    assert servers["key"].headers == {"X-Key": "Key " + "s" * 10}
    assert servers["own"].address == "python -m x"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("modle: x\n", "did you mean `model`"),
        ("servers: {a: {}}\n", "either `url` or `command`"),
        ("servers: {a: {url: x, command: y}}\n", "either `url` or `command`"),
        ("servers: {a: {ulr: x}}\n", "did you mean `url`"),
        ("servers: {a: {url: x, transport: carrier-pigeon}}\n", "stdio, http or sse"),
        ("servers: {a: {url: x, timeout: soon}}\n", "`timeout` must be a time such as `90s`"),
        ("servers: {a: {url: x, handshake: 0}}\n", "`handshake` must be a time such as `90s`"),
        ("servers: {a: {url: x, headers: {K: '${NOT_SET}'}}}\n", "`NOT_SET` is not set"),
        ("servers: [a]\n", "mapping"),
        ("- a\n", "mapping of settings"),
        ("model: [\n", "cannot read"),
        ("prices: {m: {input: cheap}}\n", "dollars per"),
        ("policy: {permit: []}\n", "allow"),
        ("max_attempts: none\n", "above 0"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong(home, tmp_path, text, says):
    write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_settings(home, tmp_path)
    assert says in f"{caught.value} {caught.value.hint}"


def test_a_project_of_somebody_else_is_told(home):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, "").parent.chmod(0o000)
        folder.chmod(0o755)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)
            with pytest.raises(SettingsError, match=r"cannot read .*config\.yaml: .*denied"):
                load_settings(home, folder)
        finally:
            if root:
                os.seteuid(0)
            (folder / ".fractale").chmod(0o700)


def test_a_port_that_is_none_is_an_error(home, tmp_path):
    with pytest.raises(SettingsError, match="FRACTALE_MCP_PORT"):
        load_settings({**home, "FRACTALE_MCP_PORT": "http"}, tmp_path)


def test_secrets_of_the_environment_are_known_so_that_they_can_be_masked(home, tmp_path):
    environment = {**home, "MY_API_KEY": "canary-1234", "DB_PASSWORD": "canary-5678", "X": "plain"}
    assert load_settings(environment, tmp_path).secrets == ("canary-1234", "canary-5678")


def test_a_started_server_gets_the_environment_without_its_secrets(home, tmp_path):
    write(tmp_path, "servers: {own: {command: x, env: {NEEDED_TOKEN: given}}}\n")
    environment = {**home, "FLUX_URI": "local:///run/flux", "OTHER_API_KEY": "k" * 12}
    server = load_settings(environment, tmp_path).servers["own"]
    assert server.env["FLUX_URI"] == "local:///run/flux"
    assert server.env["NEEDED_TOKEN"] == "given"
    assert "OTHER_API_KEY" not in server.env


SECRET_NAMES = """
API_KEY TOKEN2 MY_SECRETS DB_PASSWORD PGPASSWORD MYSQL_PASSWD CREDENTIALS GITHUB_PAT DB_PASS
DBPASS DB_PWD GPG_PASSPHRASE JWT SESSION_COOKIE SERVICE_AUTH OAUTH CLOUD_CREDS SENTRY_DSN
SLACK_WEBHOOK_URL MYKEY APIKEY --api-key --apiKey X-Api-Key Authorization dbPassword
ACCESS_TOKENS PIN USER_PIN userPin PIN_CODE OTP SMS_OTP PASSCODE API_BEARER
"""


@pytest.mark.parametrize("name", SECRET_NAMES.split())
def test_names_of_secrets_are_known(name):
    assert is_secret(name)


ORDINARY_NAMES = """
PATH PWD OLDPWD KEYBOARD KEYMAP MONKEY AUTHOR AUTHORS XAUTHORITY SECRETARY COMPASS BYPASS
TOKENIZERS_PARALLELISM PATTERN PATCH PASSENGERS LICENSE_SERVER SSH_AUTH_SOCK TOKEN_FILE
AUTH_TYPE SESSION_MANAGER --nodes Content-Type HOSTNAME COMPATIBLE PINNED SPIN
I_MPI_PIN I_MPI_PIN_DOMAIN PIN_MEMORY --pinoffset
"""


@pytest.mark.parametrize("name", ORDINARY_NAMES.split())
def test_ordinary_names_are_not_taken_for_secrets(name):
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("description", "is_one"),
    [
        ("Enter your PIN", True),
        ("The one-time code of your phone", True),
        ("An API key of the portal.", True),
        ("Your password:", True),
        ("The primary key, at most 4096 tokens", False),
        ("Path of the password file", False),
        ("Pin threads to cores", False),
        ("Salt concentration in mM", False),
    ],
)
def test_a_field_asks_for_a_secret_by_its_description_too(description, is_one):
    fields = {"value": {"type": "string", "description": description}}
    assert secret_fields({"properties": fields}) == ({"value"} if is_one else set())


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("DATABASE_URL", "mysql://anna:Walfisch7@host/db", "Walfisch7"),
        ("ANY", "amqp://anna:Wal%2Ffisch@host", "Wal/fisch"),
        ("ANY", "ghp_abcdefghijklmnop0123", "ghp_abcdefghijklmnop0123"),
        ("AWS_ID", "AKIAABCDEFGHIJKLMNOP", "AKIAABCDEFGHIJKLMNOP"),
        ("PROXY_AUTH", "Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("FRACTALE_INPUT_PIN", "77", "77"),
    ],
)
def test_what_is_secret_of_a_variable(home, tmp_path, name, value, secret):
    settings = load_settings({**home, name: value}, tmp_path)
    assert secret in settings.secrets
    assert secret not in Masker(settings.secrets).text(f"it is {secret}, really")
    assert name not in without_secrets({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("A_PASSWORD", "test"), ("MAX_TOKEN", "4096"), ("AUTH", "kerberos"), ("X", "http://u@h/")],
)
def test_values_that_say_something_else_too_are_not_masked(home, tmp_path, name, value):
    assert value not in load_settings({**home, name: value}, tmp_path).secrets


def test_a_started_server_gets_a_named_set_of_variables_and_what_env_from_names(home, tmp_path):
    write(
        tmp_path,
        "servers:\n  own: {command: x, env_from: [SITE_TOKEN, 'EB*', UNSET], env: {A: b}}\n"
        "  bare: {command: x}\n  inputs: {command: x, env_from: ['*']}\n"
        "  named: {command: x, env_from: [FRACTALE_INPUT_PW]}\n",
    )
    environment = {
        **home,
        "PATH": "/bin",
        "LC_ALL": "C",
        "SLURM_JOB_ID": "7",
        "SLURM_JWT": "j" * 20,
        "SITE_TOKEN": "t" * 12,
        "EBROOTGROMACS": "/sw/gromacs",
        "EDITOR": "vi",
        "FRACTALE_INPUT_PW": "p" * 12,
        "http_proxy": "http://anna:Walfisch7@proxy:3128",
    }
    servers = load_settings(environment, tmp_path).servers
    base = {"HOME", "PATH", "LC_ALL", "SLURM_JOB_ID"}
    assert servers["bare"].env.keys() & environment.keys() == base
    assert "EDITOR" in servers["bare"].withheld
    assert servers["own"].env.keys() == base | {"SITE_TOKEN", "EBROOTGROMACS", "A"}
    assert "FRACTALE_INPUT_PW" not in servers["inputs"].env
    assert servers["inputs"].env["SLURM_JWT"]
    assert servers["named"].env["FRACTALE_INPUT_PW"]


@pytest.mark.parametrize("value", ["{A: b}", "[A=b]", "7", "['$A']"])
def test_env_from_is_a_list_of_names(home, tmp_path, value):
    write(tmp_path, f"servers: {{own: {{command: x, env_from: {value}}}}}\n")
    with pytest.raises(SettingsError, match="`env_from` must be a list") as wrong:
        load_settings(home, tmp_path)
    assert "env_from: [" in (wrong.value.hint or "")


def test_what_is_written_into_a_server_s_entry_is_secret_where_it_looks_so(home, tmp_path):
    write(
        tmp_path,
        """
servers:
  own:
    command: x
    args: [--api-key=ar-gu-1111, --token, ar-gu-2222, --nodes, "4", "--url=http://u:pa-ss-3@h/"]
    env: {MYKEY: en-vi-4444, CODE: 9f8a7b6c5d, CLUSTER: node-01.cluster, WHERE: /scratch/a1b2c3d4}
  far:
    url: "https://anna:pa-ss-5@host/mcp?api_key=qu-er-6666&project=melting"
    headers: {X-Api-Key: he-ad-7777, Authorization: "Bearer ${VALUE}", Accept: application/json}
    token: to-ke-9999
""",
    )
    secrets = set(load_settings({**home, "VALUE": "va-lu-8888"}, tmp_path).secrets)
    assert secrets >= {
        *("ar-gu-1111", "ar-gu-2222", "pa-ss-3", "en-vi-4444", "9f8a7b6c5d", "pa-ss-5"),
        *("qu-er-6666", "he-ad-7777", "va-lu-8888", "to-ke-9999"),
    }
    ordinary = {"4", "node-01.cluster", "/scratch/a1b2c3d4", "melting", "application/json", "anna"}
    assert not secrets & ordinary


HEADERS = [
    (["--header", "Authorization: Bearer 8f3kQ7zz"], "8f3kQ7zz", "--header Authorization: ***"),
    (["--header", "X-Api-Key: s3cr3tvalue"], "s3cr3tvalue", "--header X-Api-Key: ***"),
    (["-H", "X-Api-Key:s3cr3tvalue"], "s3cr3tvalue", "-H X-Api-Key:***"),
    (["-HCookie: sid=s3cr3tvalue"], "sid=s3cr3tvalue", "-HCookie: ***"),
    (["--header=Authorization: Basic dXNlcg=="], "dXNlcg==", "--header=Authorization: ***"),
    (["Authorization: Basic dXNlcg=="], "dXNlcg==", "Authorization: ***"),
    (["--say", "Bearer 8f3kQ7zz"], "8f3kQ7zz", "--say Bearer ***"),
    (['--headers={"X-Api-Key": "s3cr3tvalue"}'], "s3cr3tvalue", '--headers={"X-Api-Key": "***"}'),
    (["pg://u:Walfisch7@h/db?token=x"], "Walfisch7", "pg://u:***@h/db?token=***"),
    (["--url=pg://u:Walfisch7@h/db?a=x"], "Walfisch7", "--url=pg://u:***@h/db?a=***"),
    (["--to", "at pg://u:Walfisch7@h/db?a=x"], "Walfisch7", "--to at pg://u:***@h/db?a=***"),
]


@pytest.mark.parametrize(("args", "secret", "shown"), HEADERS)
def test_a_secret_in_a_header_or_a_url_of_an_argument_is_masked_and_hidden(
    home, tmp_path, args, secret, shown
):
    write(tmp_path, f"servers: {{own: {{command: x, args: {json.dumps(args)}}}}}\n")
    settings = load_settings(home, tmp_path)
    assert settings.servers["own"].address == f"x {shown}"
    assert secret not in Masker(settings.secrets).text(f"it is {secret}, really")


def test_an_ordinary_header_of_an_argument_is_shown(home, tmp_path):
    args = ["--header", "Accept: text/plain", "--port=[::1]:80", "Basic research", "C:/a", "a:b=c"]
    write(tmp_path, f"servers: {{own: {{command: x, args: {json.dumps(args)}}}}}\n")
    settings = load_settings(home, tmp_path)
    assert settings.servers["own"].address == " ".join(["x", *args])
    assert settings.secrets == ()


def test_checkpoints_are_in_the_state_folder_unless_a_store_is_set(home, tmp_path):
    settings = load_settings(home, tmp_path)
    assert settings.checkpoints == tmp_path / ".fractale"
    url = "postgresql://anna@host/runs"
    set_here = load_settings({**home, "FRACTALE_STORE": url}, tmp_path)
    assert set_here.checkpoints == url
    assert set_here.origins["store"] == "environment FRACTALE_STORE"
    assert set_here.with_flags(store="sqlite").checkpoints == settings.checkpoints
    write(tmp_path, f"store: {url}\n")
    assert load_settings(home, tmp_path).checkpoints == url


def test_the_password_of_a_store_is_a_secret(home, tmp_path):
    url = "postgresql://anna:Walfisch%2F7@host/runs"
    settings = load_settings({**home, "FRACTALE_STORE": url}, tmp_path)
    assert {"Walfisch%2F7", "Walfisch/7"} <= set(settings.secrets)
    assert "Walfisch" not in repr(settings)
    assert "FRACTALE_STORE" not in without_secrets(settings.environment)
    flagged = load_settings(home, tmp_path).with_flags(store=url)
    assert "Walfisch%2F7" in flagged.secrets
    plain = {"FRACTALE_STORE": "postgresql://anna@host/runs"}
    assert without_secrets(plain) == plain


@pytest.mark.parametrize(
    ("store", "shown"),
    [
        ("postgresql://anna:secret@host:5432/runs", "postgresql://anna:***@host:5432/runs"),
        ("postgres://anna:se@cr:et@host/runs", "postgres://anna:***@host/runs"),
        ("postgresql://host/runs?user=anna&password=secret", None),
        ("postgresql://anna@host/runs", "postgresql://anna@host/runs"),
        (None, None),
    ],
)
def test_a_store_is_shown_without_its_password(store, shown):
    text = without_password(store)
    assert text == (shown if shown or store is None else store.replace("secret", "***"))


def test_a_store_that_is_none_is_refused_without_its_password(home, tmp_path):
    with pytest.raises(SettingsError, match="store must be") as caught:
        load_settings({**home, "FRACTALE_STORE": "mysql://anna:Walfisch7@host/runs"}, tmp_path)
    assert "Walfisch7" not in str(caught.value)
