"""Which variables child processes get: a named set for servers, no secrets for jobs."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from fractale.masking import Masker
from fractale.schedulers.homes import DECLARED
from fractale.secret_names import INPUT_VARIABLE
from fractale.settings.secrets import is_secret_variable, secrets_of_variable

PASSED_ON: tuple[str, ...] = (
    # user and machine
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "HOSTNAME", "TERM", "LANG", "LANGUAGE"),
    *("LC_*", "TZ", "TMPDIR", "TMP", "TEMP", "SCRATCH", "WORK", "PROJECT", "XDG_*"),
    # networks
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY", "KRB5CCNAME"),
    # schedulers
    *(glob for scheduler in DECLARED.values() for glob in scheduler.variables),
    *("SGE_*", "PALS_*", "PMI_*", "PMIX_*"),
    # software of a site
    *("MODULEPATH", "MODULESHOME", "MODULES_*", "MODULESHOME", "LOADEDMODULES", "_LMFILES_"),
    *("LMOD_*", "SPACK_*", "EASYBUILD_*", "CRAY*", "LM_LICENSE_FILE", "MANPATH", "INFOPATH"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "LIBRARY_PATH", "CPATH", "PKG_CONFIG_PATH"),
    *("CMAKE_PREFIX_PATH", "CC", "CXX", "FC"),
    # parallel programs and accelerators
    *("OMP_*", "OMPI_*", "I_MPI_*", "MPICH_*", "UCX_*", "FI_*", "NCCL_*", "MKL_*", "KMP_*"),
    *("GOMP_*", "OPENBLAS_*", "NUMEXPR_*", "CUDA_*", "NVIDIA_*", "ROCR_*", "HIP_*", "ZE_*"),
    # Python, containers, clusters
    *("PYTHON*", "VIRTUAL_ENV", "CONDA_*", "MAMBA_*"),
    *("APPTAINER_*", "SINGULARITY_*", "BUILDAH_*", "CONTAINERS_*", "CONTAINER_HOST"),
    *("DOCKER_HOST", "DOCKER_CONFIG", "KUBECONFIG", "REGISTRY_AUTH_FILE"),
    # fractale's own, for servers that are fractale again
    *("FRACTALE_STATE_DIR", "FRACTALE_LOCAL_CORES"),
)
"""Globs of the variables that each started server gets, unless their values are secrets."""


OF_SESSION: Final = (
    # the login, the terminal, the machine's name, temporary places
    *("TERM", "PWD", "OLDPWD", "SHLVL", "_", "HOSTNAME", "USER", "LOGNAME", "SHELL", "COLUMNS"),
    *("LINES", "TMPDIR", "TMP", "TEMP", "XDG_*", "KRB5CCNAME", "SSH_*", "DISPLAY", "MANPATH"),
    *("INFOPATH", "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"),
    # fractale's own
    *("FRACTALE_*", "PYTHON_HISTORY"),
    # the batch job that fractale itself runs in
    *(glob for scheduler in DECLARED.values() for glob in scheduler.variables),
    *("SGE_*", "PALS_*", "PMI_*", "PMIX_*"),
)
"""Globs of variables that differ from login to login, and do not say what a program computes."""


def lasting(environment: Mapping[str, str], named: Iterable[str] = ()) -> dict[str, str]:
    """The variables of an environment that may change what a program computes.

    Args:
        named: Variables that the settings set: these always matter.
    """
    always = frozenset(named)
    return {
        name: value
        for name, value in sorted(environment.items())
        if name in always or not any(fnmatchcase(name, glob) for glob in OF_SESSION)
    }


def passed_on(environment: Mapping[str, str], env_from: Sequence[str] = ()) -> dict[str, str]:
    """The environment of a started server.

    Args:
        env_from: Further variables, or globs of them; these may be secrets. A glob does not match
            the variables of secret inputs.
    """
    found = {
        name: value
        for name, value in environment.items()
        if _is_any(name, PASSED_ON) and not is_secret_variable(name, value)
    }
    return {**found, **named_by(environment, env_from)}


def named_by(environment: Mapping[str, str], env_from: Sequence[str]) -> dict[str, str]:
    """The variables that `env_from` names, as far as they are set."""
    return {
        name: value
        for name, value in environment.items()
        if name in env_from or (_is_any(name, env_from) and not _is_input(name, env_from))
    }


def _is_any(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _is_input(name: str, globs: Sequence[str]) -> bool:
    """Whether it is of a secret input, and only a glob for other variables matches it."""
    meant = [glob for glob in globs if glob.startswith(INPUT_VARIABLE)]
    return name.startswith(INPUT_VARIABLE) and not _is_any(name, meant)


def slurm_token(environment: Mapping[str, str]) -> dict[str, str]:
    """The variable that Slurm's programs need at sites that give each user a token."""
    return {name: value for name, value in environment.items() if name == "SLURM_JWT"}


def program_environment() -> dict[str, str]:
    """The environment of a program that a fractale tool starts: fractale's own without secrets."""
    return without_secrets(os.environ)


def secrets_of_environment() -> set[str]:
    """The secrets in this process's environment, for code that cannot read the settings."""
    found: set[str] = set()
    found.update(*(secrets_of_variable(name, value) for name, value in os.environ.items()))
    return found


def without_secrets(environment: Mapping[str, str], known: Collection[str] = ()) -> dict[str, str]:
    """The environment of jobs and of programs that are probed: everything except secrets.

    A job's script needs the variables that its site, modules and Spack have set, whatever their
    names.

    Args:
        known: Further secret texts; variables that have them are left out, whatever their names.
    """
    masker = Masker(known)
    return {
        name: value
        for name, value in environment.items()
        if not is_secret_variable(name, value) and masker.text(value) == value
    }
