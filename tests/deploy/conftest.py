"""What all tests of the manifests read."""

import pytest

from tests.deploy.rendering import DEPLOY, Document, rendered


@pytest.fixture(scope="session")
def everything() -> list[Document]:
    """Every object of the default installation."""
    return rendered(DEPLOY)
