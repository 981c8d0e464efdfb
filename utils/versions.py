"""Which libraries made a result.

library_versions("granted", "torch")     # {"granted": "0.1.0", "torch": "2.14.1", "python": "3.11.14"}
"""

import platform
from importlib.metadata import version


def library_versions(*packages: str) -> dict[str, str]:
    """Versions of installed packages and of Python."""
    return {package: version(package) for package in packages} | {"python": platform.python_version()}
