"""A small index of the fake encoder, and its service without a port; the folder of QMSum and PEP."""

import pytest


@pytest.fixture
def collection(tmp_path):
    from farfield.apps.retrieval.collection import Collection
    from farfield.apps.retrieval.serving_encoder import ServingEncoder
    from tests.apps.retrieval.fake_encoder import FakeEncoder

    with Collection.create(tmp_path / "index", ServingEncoder(FakeEncoder(), FakeEncoder())) as made:
        yield made


@pytest.fixture
def client(collection):
    from fastapi.testclient import TestClient

    from farfield.apps.retrieval.service import service
    from tests.apps.retrieval.served import LIMITS

    return TestClient(service(collection, LIMITS), raise_server_exceptions=True)


@pytest.fixture(scope="session")
def data_root():
    from farfield.apps.retrieval import loco
    from farfield.apps.training.errors import UserError

    try:
        return loco.data_root(None)
    except UserError as error:
        pytest.skip(str(error))
