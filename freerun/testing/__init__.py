"""Testing: `@freerun.test`, and a pytest plugin that gives each test a fresh runtime. Tokio: `#[tokio::test]`.

The plugin is `freerun.testing.plugin`; pytest finds it by itself.
"""

from __future__ import annotations

from ._decorator import test

__all__ = ["test"]
