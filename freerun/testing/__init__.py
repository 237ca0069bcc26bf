"""Testing: `@freerun.test`, and a pytest plugin that gives each test a fresh runtime. Tokio: `#[tokio::test]`.

`localhost_tls()` has certificates for tests of TLS.

The plugin is `freerun.testing.plugin`; pytest finds it by itself.
"""

from __future__ import annotations

from ._decorator import test
from .localhost_tls import localhost_tls

__all__ = ["localhost_tls", "test"]
