from .dictionary import Dictionary as Dictionary
from .dictionary_file import save_dictionary as save_dictionary
from .dictionary_loading import Dictionaries as Dictionaries
from .dictionary_loading import load_dictionaries as load_dictionaries
from .feature_cards import FeatureCard as FeatureCard
from .feature_cards import describe as describe
from .feature_cards import features_of_heads as features_of_heads
