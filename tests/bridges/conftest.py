"""One small study that is trained once for all tests of this folder that ask for it."""

from __future__ import annotations

import pytest
from tests import small_run

from ablab.launch.study import Lab


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Both arms of the small study, trained at one seed."""
    return small_run.trained(tmp_path_factory.mktemp("trained"))
