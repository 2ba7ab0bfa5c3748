"""Backends: the models a program can be run on, and how they are found by id."""

from llmprog.backends.base import Backend, Capabilities, Edit, EditedSpan, EditingBackend, StreamingBackend
from llmprog.backends.registry import BackendInfo, open_backend
from llmprog.backends.scheduler import Scheduler
from llmprog.backends.scripted import ScriptedBackend

__all__ = [
    "Backend",
    "BackendInfo",
    "Capabilities",
    "Edit",
    "EditedSpan",
    "EditingBackend",
    "Scheduler",
    "ScriptedBackend",
    "StreamingBackend",
    "open_backend",
]
