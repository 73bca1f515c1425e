"""Settings: what a person set, where, and where each value came from.

Nothing else in fractale reads the environment. A value comes from, in this order: the command
line, the environment, the project's ``.fractale/config.yaml`` (in the working folder or the
nearest one above it), the user's ``~/.config/fractale/config.yaml``, the default.

A settings file looks like this; every key may be left out::

    provider: openai              # gemini, openai or local
    model: openai:gpt-4.1-mini    # provider:name, for any that LangChain's init_chat_model knows
    local_model: ~/models/a.gguf  # the file that the provider `local` loads
    fallback_models: [openai:gpt-4.1-nano]  # tried in turn where a step's model is out of reach
    max_attempts: 100
    local_cores: 4                # how many cores local batch jobs may use at a time
    store: postgresql://user@host/runs  # where checkpoints are kept, if not in the state folder
    servers:
      site: {url: "https://mcp.site.example/mcp", token_env: SITE_TOKEN}
      flux: {command: flux-mcp, args: [], env: {FLUX_URI: "local:///run/flux/local"}}
    prices:                       # US dollars per million tokens
      openai:gpt-4.1-mini: {input: 0.4, output: 1.6}
    policy:                       # what may be called; globs of tool names, and of arguments
      allow: ["hpc.filesystem_*"]
      deny: ["*.k8s_delete*", {tool: "*.shell", arguments: {command: "*rm *"}}]

`servers` and `prices` of the two files are put together by name, the project's over the user's;
the lists of `policy` are added to each other.
"""

from fractale.settings.load import allows_color, find_project_folder, load_settings
from fractale.settings.model import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_MODELS,
    DEFAULT_PROVIDER,
    PROJECT_FOLDER,
    Price,
    Settings,
)
from fractale.settings.rules import PolicyList, PolicySettings, SourcesSettings, ToolRule
from fractale.settings.secrets import (
    STORE_SCHEMES,
    is_secret,
    shown_url,
    store_password,
    without_password,
    without_secrets,
)
from fractale.settings.servers import ServerSettings, Transport

__all__ = [
    "DEFAULT_MAX_ATTEMPTS",
    "DEFAULT_MODELS",
    "DEFAULT_PROVIDER",
    "PROJECT_FOLDER",
    "STORE_SCHEMES",
    "PolicyList",
    "PolicySettings",
    "Price",
    "ServerSettings",
    "Settings",
    "SourcesSettings",
    "ToolRule",
    "Transport",
    "allows_color",
    "find_project_folder",
    "is_secret",
    "load_settings",
    "shown_url",
    "store_password",
    "without_password",
    "without_secrets",
]
