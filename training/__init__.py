"""How the model that ships with cotrace is made: the corpus, its pairs, the training and the measurements."""
