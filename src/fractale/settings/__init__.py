"""The user's settings, and where each value came from.

Nothing else in fractale reads the environment. A value comes from, in this order: the command
line, the environment, the project's ``.fractale/config.yaml`` (in the working directory or the
nearest one above it), the user's ``~/.config/fractale/config.yaml``, the default.

A settings file looks like this; every key may be left out::

    provider: openai              # gemini, openai or local
    model: openai:gpt-4.1-mini    # provider:name, for any that LangChain's init_chat_model knows
    local_model: ~/models/a.gguf  # the file that the provider `local` loads
    fallback_models: [openai:gpt-4.1-nano]  # tried in turn if a step's model is out of reach
    max_attempts: 100
    local_cores: 4                # how many cores local batch jobs may use at a time
    store: postgresql://user@host/runs  # where checkpoints are kept, if not in the state directory
    servers:
      site: {url: "https://mcp.site.example/mcp", token_env: SITE_TOKEN}
      flux: {command: flux-mcp, env: {FLUX_URI: "local:///run/flux/local"}, env_from: [FLUX_KEY]}
    prices:                       # US dollars per million tokens
      openai:gpt-4.1-mini: {input: 0.4, output: 1.6}
    policy:                       # which calls are allowed; globs of tool names, and of arguments
      allow: ["hpc.filesystem_*"]
      deny: ["*.k8s_delete*", {tool: "*.shell", arguments: {command: "*rm *"}}]
    notify:                       # what is sent when a run ends, fails, or asks a question
      - {on: [failure, question], command: [mail, -s, fractale, me@site.example]}
    executors:                    # where the runs of sweeps happen, if `--on` names one
      cluster: {provider: slurm, nodes: 2, walltime: 4h, workers_per_node: 16, partition: batch}

The project's file acts only if the user trusts it (`fractale.settings.trust`). Until then, only its
settings that narrow apply. `servers`, `prices` and `executors` of the two files are merged by name,
and the project's entries override the user's. The lists of `policy` and `notify` are added to each
other.
"""

from fractale.settings.environment import (
    PASSED_ON,
    passed_on,
    program_environment,
    secrets_of_environment,
    slurm_token,
    without_secrets,
)
from fractale.settings.executors import ExecutorSettings
from fractale.settings.files import (
    PROJECT_FOLDER,
    Project,
    SettingsFile,
    check_state_folder,
    find_project,
    read_table,
    trust_store,
)
from fractale.settings.load import (
    allows_color,
    changes_of,
    decide_for_children,
    load_settings,
    trust_file,
    waiting_of,
)
from fractale.settings.model import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_MODELS,
    DEFAULT_PROVIDER,
    Price,
    Settings,
)
from fractale.settings.notify import Notify, Occasion
from fractale.settings.rules import PolicyList, PolicySettings, SourcesSettings, ToolRule
from fractale.settings.secrets import (
    STORE_SCHEMES,
    is_secret_variable,
    secrets_of_variable,
    shown_url,
    store_password,
    without_password,
)
from fractale.settings.servers import STARTED_BY, ServerSettings, Transport
from fractale.settings.trust import TrustEntry, TrustStore
from fractale.settings.waiting import UntrustedProject, Waiting, untrusted_lines

__all__ = [
    "DEFAULT_MAX_ATTEMPTS",
    "DEFAULT_MODELS",
    "DEFAULT_PROVIDER",
    "PASSED_ON",
    "PROJECT_FOLDER",
    "STARTED_BY",
    "STORE_SCHEMES",
    "ExecutorSettings",
    "Notify",
    "Occasion",
    "PolicyList",
    "PolicySettings",
    "Price",
    "Project",
    "ServerSettings",
    "Settings",
    "SettingsFile",
    "SourcesSettings",
    "ToolRule",
    "Transport",
    "TrustEntry",
    "TrustStore",
    "UntrustedProject",
    "Waiting",
    "allows_color",
    "changes_of",
    "check_state_folder",
    "decide_for_children",
    "find_project",
    "is_secret_variable",
    "load_settings",
    "passed_on",
    "program_environment",
    "read_table",
    "secrets_of_environment",
    "secrets_of_variable",
    "shown_url",
    "slurm_token",
    "store_password",
    "trust_file",
    "trust_store",
    "untrusted_lines",
    "waiting_of",
    "without_password",
    "without_secrets",
]
