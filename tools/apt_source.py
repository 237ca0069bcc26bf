"""Fetch a source package through the machine's own apt, without root. Standard library only, Python 3.11+.

apt is given a configuration of its own (lists, cache and state in a folder of ours) whose one source is the archive the
machine already uses, with ``deb-src``, another suite and the keyring the machine already trusts. So the address, the
proxy and the keys are the machine's, and apt checks the signature of the index and, through it, the checksum of every
file. Nothing here turns a check off.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

# Suites that are known to be too old to carry Python 3.13: no use asking them.
TOO_OLD = {"buster", "bullseye", "bookworm", "bionic", "focal", "jammy", "noble"}
LATER_SUITES = {"debian": ["trixie", "forky", "sid"], "ubuntu": ["plucky", "questing", "resolute", "devel"]}
COMPONENTS = {"debian": ["main"], "ubuntu": ["main", "universe"]}
KEYRINGS = {
    "debian": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "ubuntu": "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
}
# 3.13 is what the tests are run on; an archive that dropped it has 3.14.
PACKAGES = ["python3.13", "python3.14"]


class SourceError(Exception):
    """The source package cannot be had; the message says why."""


@dataclass(frozen=True)
class AptEntry:
    """One archive in the machine's apt configuration."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""  # a path, several, fingerprints, or a key itself; empty: apt's default keys


@dataclass(frozen=True)
class Distribution:
    """What /etc/os-release says, reduced to what is needed."""

    family: str  # "debian" or "ubuntu"
    codename: str


def distribution(os_release: str) -> Distribution | None:
    """Debian, Ubuntu or a derivative of one of them; None for anything else."""
    values = {}
    for line in os_release.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            values[name.strip()] = value.strip().strip("\"'")
    kin = [values.get("ID", ""), *values.get("ID_LIKE", "").split()]
    for family in ("ubuntu", "debian"):
        if family in kin:
            own = values.get("UBUNTU_CODENAME" if family == "ubuntu" else "DEBIAN_CODENAME")
            return Distribution(family, own or values.get("VERSION_CODENAME", ""))
    return None


def parse_one_line(text: str) -> list[AptEntry]:
    """The one-line style: ``deb [signed-by=... arch=...] uri suite component...``."""
    entries = []
    for line in text.splitlines():
        found = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if found:
            options = dict(re.findall(r"([\w-]+)\+?=(\S+)", found[1] or ""))
            signed_by = options.get("signed-by", "").replace(",", " ")
            entries.append(AptEntry((found[2],), (found[3],), tuple(found[4].split()), signed_by))
    return entries


def parse_deb822(text: str) -> list[AptEntry]:
    """The deb822 style: paragraphs of ``Field: value``, values going on in indented lines."""
    entries = []
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for paragraph in re.split(r"\n\s*\n", lines):
        fields = {
            name.lower(): value
            for name, value in re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", paragraph, re.MULTILINE)
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "").strip().lower() in {"no", "false"}:
            continue
        entries.append(
            AptEntry(
                tuple(fields.get("uris", "").split()),
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by", "").strip(" \t"),
            )
        )
    return entries


def apt_directory(setting: str, default: str) -> Path:
    """A file or folder as apt itself resolves it."""
    try:
        ran = subprocess.run(
            ["apt-config", "shell", "value", f"{setting}/f"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return Path(default)
    found = re.search(r"value='([^']+)'", ran.stdout)
    return Path(found[1] if found else default)


def configured() -> list[AptEntry]:
    """Every enabled binary archive of this machine."""
    parts = apt_directory("Dir::Etc::sourceparts", "/etc/apt/sources.list.d")
    files = [apt_directory("Dir::Etc::sourcelist", "/etc/apt/sources.list")]
    files += sorted(parts.iterdir()) if parts.is_dir() else []
    entries = []
    for file in files:
        parse = {".list": parse_one_line, ".sources": parse_deb822}.get(file.suffix)
        if parse and file.is_file():
            entries += parse(file.read_text(errors="replace"))
    return entries


def archive(entries: Iterable[AptEntry], system: Distribution) -> AptEntry | None:
    """The distribution's main archive among *entries*: not its updates, not somebody else's."""

    def is_main(entry: AptEntry) -> bool:
        reachable = any(re.match(r"(https?|mirror\S*|file|copy|tor\S*):", uri) for uri in entry.uris)
        return reachable and "main" in entry.components

    usable = [entry for entry in entries if is_main(entry)]
    aliases = {"oldstable", "stable", "testing", "unstable", "sid", "devel"}
    for suites in ({system.codename} - {""}, aliases):
        for entry in usable:
            if suites & set(entry.suites):
                return entry
    return None


def suites_to_ask(system: Distribution) -> list[str]:
    """The machine's own suite first when it may have the package, then later ones of the same archive."""
    own = [system.codename] if system.codename and system.codename not in TOO_OLD else []
    return own + [suite for suite in LATER_SUITES[system.family] if suite not in own]


def source_stanza(entry: AptEntry, suite: str, family: str, signed_by: str) -> str:
    """The one paragraph of the private sources file."""
    fields: Mapping[str, str] = {
        "Types": "deb-src",
        "URIs": " ".join(entry.uris),
        "Suites": suite,
        "Components": " ".join(COMPONENTS[family]),
        "Signed-By": signed_by,
    }
    return "".join(f"{name}: {value}\n" for name, value in fields.items() if value.strip())


def keyrings_to_try(entry: AptEntry, family: str) -> list[str]:
    """What the machine trusts for this archive; then the distribution's keyring of all its releases."""
    whole = KEYRINGS[family]
    return [entry.signed_by] + ([whole] if whole != entry.signed_by and Path(whole).is_file() else [])


def apt_conf(folder: Path) -> str:
    """apt's settings for a private state; read after the machine's own, so proxies and the like stay as they are."""
    return f"""\
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Update::Pre-Invoke;
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{folder}/sources.list.d";
Dir::State "{folder}/state";
Dir::Cache "{folder}/cache";
Dir::State::status "/var/lib/dpkg/status";
// The folder is the user's own: apt's download user could not write there.
APT::Sandbox::User "";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
"""
