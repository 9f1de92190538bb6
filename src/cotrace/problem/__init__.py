"""Problems: all that a search may see, and the one made of a language model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "protocol": ["Cost", "Direction", "Examples", "Loss", "Mode", "Problem"],
        "goals": ["Constrained", "Constraint", "side_problem"],
        "weighted": ["WeightedSum"],
        "language": ["LanguageProblem"],
        "_coverage": ["PairsWithoutDonor", "RefusedPairs"],
        "divided": ["Plan"],
    },
)
