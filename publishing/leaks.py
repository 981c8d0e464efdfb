"""What must not leave this machine: keys, tokens and passwords, and paths of its disk, found in a text.

    find_leaks('{"hub_token": "hf_..."}')      # [(1, "Hugging Face token")]: line and kind, never the secret

Tiny: tests/test_release_checks.py.

A table of patterns of its own and not detect-secrets (1.5.0): that library has no pattern for Hugging Face, Anthropic
and Google keys or GitHub's fine-grained tokens, so half of this table would stand beside it; and its entropy plugins
stop every commit hash and fingerprint. A pattern here needs a prefix that only such keys have, or a name that says
what the value is, so that hashes, base64 and prose pass.
"""

import re


# What may stand before a key: no letter or digit, or a line break as JSON and Python write it.
_START = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))"
_SECRETS = {
    "Hugging Face token": r"(?:hf|api_org)_[A-Za-z0-9]{30,}",
    "private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-\d",
    "AWS access key": r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",
    "Google key": r"AIza[\w-]{35}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}",
    "Azure key": r"(?:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{40,}=*|[?&]sig=[A-Za-z0-9%+/]{40,}",
    "GitHub token": r"gh[oprsu]_[A-Za-z0-9]{36,}|github_pat_\w{22,}",
    "GitLab token": r"gl(?:pat|dt|rt|ptt)-[\w-]{20,}",
    "OpenAI or Anthropic key": _START + r"sk-(?:(?:ant|proj|svcacct|admin|or)-[\w-]{20,}|[A-Za-z0-9]{32,})",
    "Slack token": r"xox[abeoprs]-[\w-]{10,}|xapp-\d-[\w-]{10,}|hooks\.slack\.com/services/\w+/\w+/\w+",
    "Stripe key": r"[rs]k_(?:live|test)_[A-Za-z0-9]{20,}",
    "SendGrid key": r"SG\.[\w-]{22}\.[\w-]{43}",
    "PyPI token": r"pypi-[\w-]{50,}",
    "npm token": r"npm_[A-Za-z0-9]{36}",
    "Telegram token": _START + r"\d{8,10}:AA[\w-]{33}",
    "JSON web token": r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*",
    "password in a URL": r"://[\w.~%!$&()*+,;=-]+:[\w.~%!$&()*+,;=:-]+@[A-Za-z0-9\[]",
    "authorization header": r"(?i:authorization)[\"']?\s*[:=]\s*[\"']?(?i:bearer|basic)\s+[\w.+/=-]{16,}",
    # Values in angle brackets are what trainers write in place of a token.
    "key or password in a setting": r"(?i:api[_-]?key|secret(?:[_-]?(?:access)?[_-]?key)?|passw(?:or)?d|passphrase|"
    r"access[_-]?key|(?:access|auth|hub|api|bearer)[_-]?token)[\"']?\s*[:=]\s*[\"'][^\s\"'<>{}]{8,}[\"']",
}
# Only folders that hold people's and machines' own files: `/usr/bin/env` is the same everywhere.
_ROOTS = (
    r"(?:home|mnt|scratch|lustre|gpfs|nfs|data|fsx|efs|raid|media|storage)\d*|Users|root|tmp|work|"
    r"workspaces?|datasets|opt|srv|kaggle|Volumes|"
    r"dev/shm|var/(?:tmp|folders|lib|run)|private/(?:tmp|var)|content/drive|run/user|System/Volumes"
)
# The slash that an absolute path begins with: no part of a URL or of `a/b`.
_SLASH = r"/(?:(?<![\w./\\~<})\]*$-]/)|(?<=\\[nrt]/))"
_PATHS = {
    "path of a machine": rf"{_SLASH}(?:{_ROOTS})\\?/[\w.@+-]"
    + rf"|{_SLASH}(?:root|tmp)(?=[\"'`,;)\s]|$)"
    + r"|(?<![A-Za-z0-9])[A-Za-z]:(?:\\{1,4}|/)(?:Users|Documents and Settings|Windows|Program Files|ProgramData|Temp)"
    + r"(?:\\{1,4}|/)",
    "file URL": r"(?<![A-Za-z0-9])file:\\?/\\?/[\w/\\.~%]",
}


def _compiled(table: dict[str, str]) -> dict[str, re.Pattern]:
    return {kind: re.compile(pattern, re.ASCII | re.MULTILINE) for kind, pattern in table.items()}


_SECRET_PATTERNS, _PATH_PATTERNS = _compiled(_SECRETS), _compiled(_PATHS)


def find_leaks(text: str, *, paths: bool = True) -> list[tuple[int, str]]:
    """Where a text holds a secret or a path of a machine.

    It finds what got in by mistake: a secret that someone hid (split, encoded) passes.

    Args:
        text (`str`): the text; bytes are scanned when they are decoded as Latin-1.
        paths (`bool`, defaults to `True`): look for paths too, and not for secrets alone.

    Returns:
        `list[tuple[int, str]]`: line, counted from 1, and kind, in order and each pair once. What was found is not
        among it.
    """
    patterns = _SECRET_PATTERNS | (_PATH_PATTERNS if paths else {})
    found = {
        (text.count("\n", 0, match.start()) + 1, kind)
        for kind, pattern in patterns.items()
        for match in pattern.finditer(text)
    }
    return sorted(found)
