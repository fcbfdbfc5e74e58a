"""Limits of a small service, and a write to it."""

from fastapi.testclient import TestClient

from farfield.apps.retrieval.service_guard import Limits

LIMITS = Limits(body=2**20, batch=8, tokens=5000, concurrency=8, seconds=5.0)


def write(client: TestClient, **texts: str):
    documents = [{"id": id, "text": text, "metadata": {"length": len(text)}} for id, text in texts.items()]
    return client.post("/documents", json={"documents": documents})
