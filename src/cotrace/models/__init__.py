"""Models: loading, what a decoder is made of, and taps on its tensors."""

from cotrace.models.language_model import LanguageModel, wrap
from cotrace.models.loading import load_model, model_config
from cotrace.models.places import Layer, Place
from cotrace.models.taps import tapped

__all__ = ["LanguageModel", "Layer", "Place", "load_model", "model_config", "tapped", "wrap"]
