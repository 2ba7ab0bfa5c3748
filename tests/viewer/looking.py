"""What a page shows, waited for: it answers a click or an event when it gets to it, not when a test asks."""

from __future__ import annotations

import pytest

expect = pytest.importorskip("playwright.sync_api").expect
expect.set_options(timeout=30_000)
