"""Models: loading, what a decoder is made of, and taps on its tensors."""

from cotrace.models.hooks import tapped
from cotrace.models.language_model import LanguageModel, wrap
from cotrace.models.loading import load_model, model_config
from cotrace.models.places import Layer, Place

__all__ = ["LanguageModel", "Layer", "Place", "load_model", "model_config", "tapped", "wrap"]
