"""Models: loading, what a decoder is made of, and hooks on its tensors."""

from cotrace.models.hooks import hooked
from cotrace.models.language_model import LanguageModel, wrap
from cotrace.models.loading import load_model, model_config
from cotrace.models.places import Layer, Place

__all__ = ["LanguageModel", "Layer", "Place", "hooked", "load_model", "model_config", "wrap"]
