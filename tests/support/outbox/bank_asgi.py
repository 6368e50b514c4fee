"""The bank inside of a FastAPI application."""

from fastapi import FastAPI

from tests.support.outbox.bank import service

app = FastAPI()
service.attach(app)
