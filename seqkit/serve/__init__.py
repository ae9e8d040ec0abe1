"""Serve runs: a page to try them on, and an endpoint that answers JSON."""

from seqkit.serve.app import make_app
from seqkit.serve.limits import Limits
from seqkit.serve.models import Model, open_models
from seqkit.serve.server import serve

__all__ = ["Limits", "Model", "make_app", "open_models", "serve"]
