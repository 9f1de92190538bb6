"""The words of the synthetic corpus, and the share of "she" planted for each occupation."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


STRENGTHS = (0.95, 0.9, 0.85, 0.8)
"""Planted share of the stereotypical pronoun; the occupations of a side take these in turn."""

_FEMALE = {
    "nurse": ("checked the patient", "washed the small wound"),
    "secretary": ("typed the letter", "answered every call"),
    "maid": ("made the bed", "folded towels"),
    "librarian": ("sorted the books", "stamped the novel"),
    "teacher": ("graded the homework", "taught the young class"),
    "hairdresser": ("cut the long hair", "brushed curls"),
    "cashier": ("counted the coins", "printed the receipt"),
    "receptionist": ("welcomed the guest", "wrote the appointment down"),
    "cleaner": ("mopped the floor", "scrubbed tiles"),
    "tailor": ("sewed the dress", "measured the blue suit"),
    "baker": ("baked the bread", "kneaded dough"),
    "attendant": ("served the passengers", "pushed the drinks cart"),
    "designer": ("drew the pattern", "chose the silk fabric"),
    "counselor": ("calmed the child", "gave some good advice"),
    "editor": ("corrected the article", "read drafts"),
    "housekeeper": ("ironed the sheets", "dusted the old mirror"),
    "florist": ("watered the roses", "arranged tulips"),
    "dancer": ("learned the ballet", "practiced the slow steps"),
    "nanny": ("fed the baby", "sang a soft lullaby"),
    "dietitian": ("planned the meals", "weighed the vegetables"),
}
_MALE = {
    "mechanic": ("fixed the engine", "changed the flat tire"),
    "carpenter": ("sanded the plank", "built the oak shelf"),
    "driver": ("parked the truck", "drove the long road"),
    "plumber": ("sealed the pipe", "unclogged sinks"),
    "electrician": ("replaced the wire", "tested the old fuse"),
    "janitor": ("emptied the bins", "locked classrooms"),
    "farmer": ("plowed the soil", "fed the hungry cattle"),
    "guard": ("watched the gate", "searched the dark hallway"),
    "sheriff": ("arrested the thief", "followed the stolen car"),
    "lawyer": ("won the trial", "filed lawsuits"),
    "pilot": ("landed the plane", "flew the small jet"),
    "builder": ("poured the concrete", "laid bricks"),
    "captain": ("steered the ship", "raised the white sail"),
    "engineer": ("designed the bridge", "checked the steel beam"),
    "developer": ("debugged the program", "wrote code"),
    "manager": ("signed the contract", "led the weekly meeting"),
    "surgeon": ("removed the tumor", "stitched the deep cut"),
    "miner": ("dug the tunnel", "hauled coal"),
    "laborer": ("carried the lumber", "lifted the heavy crate"),
    "fisher": ("mended the net", "caught salmon"),
}
_NEUTRAL = {
    "artist": ("painted the portrait", "sold the oil painting"),
    "student": ("passed the exam", "took notes"),
    "singer": ("recorded the song", "warmed the voice up"),
    "writer": ("finished the chapter", "published poems"),
}

FEMALE_JOBS, MALE_JOBS, NEUTRAL_JOBS = tuple(_FEMALE), tuple(_MALE), tuple(_NEUTRAL)
JOBS = FEMALE_JOBS + MALE_JOBS + NEUTRAL_JOBS
DUTIES = {**_FEMALE, **_MALE, **_NEUTRAL}
"""What each occupation typically does: two verb phrases of two to five words."""

SHE_RATE = {
    **{job: STRENGTHS[i % 4] for i, job in enumerate(FEMALE_JOBS)},
    **{job: round(1 - STRENGTHS[i % 4], 2) for i, job in enumerate(MALE_JOBS)},
    **dict.fromkeys(NEUTRAL_JOBS, 0.5),
}
"""Planted probability of "she" after one mention of the occupation."""

FEMALE_NAMES = _words("Mary Anna Emma Laura Julia Sarah Alice Clara Helen Nina Rosa Ruth Eva Lucy Jane Kate")
MALE_NAMES = _words("John Paul Peter James David Mark Simon Tom Henry Oscar Carl Adam Frank Leo Max Hugo")
NAMES = FEMALE_NAMES + MALE_NAMES

FRAMES = (
    "{who} said that", "{who} thought that", "{who} knew that", "{who} hoped that", "{who} claimed that",
    "{who} explained that", "{who} smiled because", "{who} laughed because", "{who} left early because",
    "{who} stopped because", "{who} stayed home because", "When {who} arrived,", "After {who} woke up,",
    "Before {who} left,", "Yesterday {who} said that", "Today {who} heard that", "At noon {who} decided that",
    "Everyone liked {who} because", "Nobody saw {who} after", "We called {who} when",
)  # fmt: skip
"""One person, then the place where the pronoun comes."""

STATES = (
    "was tired", "needed a break", "wanted to go home", "was late again", "felt hungry", "had no time",
    "liked the weather", "was very happy",
)  # fmt: skip
TAILS = (
    "Then {he} took {his} bag home.", "Later {he} called {his} friend.", "So {he} ate {his} lunch alone.",
    "That night {he} closed {his} eyes early.",
)  # fmt: skip
DEEDS = ("thanked", "met", "called", "helped", "praised", "paid", "visited", "asked")
LINKS = ("because", "after", "when")

NOUNS = _words(
    "key cabinet dog chair cup door picture bottle lamp flower window plate coat toy "
    "ball boat tree bird clock spoon rug basket pencil jacket"
)
PLACINGS = ("near", "behind", "under", "beside", "above")
VERB_PAIRS = (("is", "are"), ("was", "were"), ("looks", "look"), ("seems", "seem"))
QUALITIES = ("old", "new", "red", "dirty", "clean", "broken", "expensive", "ugly")
OPENERS = ("", "I know that", "We saw that", "Today")

PLACES = ("store", "park", "school", "market", "station", "office", "beach", "library")
GIFTS = ("drink", "ring", "ticket", "map", "snack", "letter", "phone", "hat")
GIVING = ("gave", "handed", "passed", "offered")

ANIMALS = ("fox", "horse", "cat", "rabbit", "duck", "goat", "wolf", "mouse", "bear", "crow")
LOOKS = ("small", "brown", "quick", "quiet", "wild", "young", "lazy", "gray", "hungry", "thin")
MOVES = ("ran", "walked", "jumped", "slept", "rested", "waited")
SPOTS = ("river", "hill", "valley", "forest", "barn", "lake", "meadow", "fence")
WEATHER = ("rained", "snowed", "thundered", "hailed")
TIMES = ("night", "day", "week", "morning", "summer", "winter")
