"""Stands in for Spack: a program that says what the real one says, and installs a real cowsay.

`find --json`, `spec --json`, `info`, `list`, `install` and `load --sh` answer in Spack's form, with
its exit codes and `==> Error:` lines. It knows cowsay and its dependency perl; nothing is compiled.
"""

from __future__ import annotations

from pathlib import Path

COWSAY = r"""#!/bin/sh
printf ' _\n< %s >\n -\n   \\   ^__^\n    \\  (oo)\n' "$*"
"""

SPACK = r"""#!/bin/sh
root=@ROOT@; installed="$root/opt/cowsay-3.04"
fail() { echo "==> Error: $*" >&2; exit 1; }
verb=$1; shift
case "$verb" in
  --version) echo "1.1.0"; exit 0;;
  list) printf 'cowsay\nlammps\nperl\n'; exit 0;;
esac
for word; do spec=$word; done
case "${spec%%[@ +%~]*}" in
  cowsay|perl) ;;
  *) fail "Package '$spec' not found in repository 'builtin'.";;
esac
case "$verb" in
  find)
    test -d "$installed" || fail "No package matches the query: $spec"
    echo '[{"name": "cowsay", "version": "3.04", "hash": "abcdefg"}]';;
  info) printf 'Package:   cowsay\n\nDescription:\n    Speaking cow.\n';;
  spec)
    echo '{"spec": {"nodes": [{"name": "cowsay", "version": "3.04"}, {"name": "perl"}]}}';;
  install)
    if test -d "$installed"; then echo "[+] $installed"; exit 0; fi
    for line in "==> Installing perl-5.40" "==> perl: Executing phase: 'build'" \
        "[+] $root/opt/perl-5.40" "==> Installing cowsay-3.04"; do
      echo "$line"; sleep "${SPACK_SLOW:-0}"
    done
    case "$spec" in *@9*)
      cat >&2 <<'END'
==> Error: ProcessError: Command exited with status 2:
    'make' '-j2' 'install'

1 error found in build log:
     7    cc -c cow.c
  >> 8    cow.c:1:10: fatal error: cow.h: No such file or directory
     9    compilation terminated.

See build log for details:
  /tmp/spack-stage/cowsay/spack-build-out.txt

==> Warning: Skipping build of cowsay since it failed
==> Error: Terminating after first install failure: ProcessError: Command exited with status 2:
    'make' '-j2' 'install'
END
      exit 1;;
    esac
    # Of another process that is killed while it installs the same, Spack sees a failure.
    if test -n "$SPACK_DYING" && ! test -e "$root/seen"; then
      touch "$root/seen"; fail "Terminating after first install failure"
    fi
    mkdir -p "$installed/bin"
    cp "$root/cowsay" "$installed/bin/cowsay"
    echo "[+] $installed";;
  location) test -d "$installed" || fail "Spec '$spec' matches no installed packages."
    echo "$installed";;
  load)
    test "$1" = --sh || fail "spack load needs a shell's support"
    test -d "$installed" || fail "Spec '$spec' matches no installed packages."
    echo "export PATH=$installed/bin:\$PATH;"
    echo "export SPACK_LOADED_HASHES=abcdefg;";;
  *) fail "unknown command $verb";;
esac
"""


def spack(folder: Path) -> Path:
    """Make it in a folder; the path of its `bin`."""
    (folder / "bin").mkdir(parents=True)
    for path, text in ((folder / "bin" / "spack", SPACK), (folder / "cowsay", COWSAY)):
        path.write_text(text.replace("@ROOT@", str(folder)))
        path.chmod(0o755)
    return folder / "bin"
